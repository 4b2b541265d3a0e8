"""Converted models give the answers of the public code, computed in float64 over its networks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from support.checkpoints import FIXTURES, read_fixture, write_fixture
from torch import Tensor

from conversion.convert import Converted, convert, write
from impflow_zoo import create_model
from impflow_zoo.models.flow import FlowModel

IMAGES = tuple(name for name in FIXTURES if name.startswith("img"))
AVERAGED = tuple(name for name in FIXTURES if read_fixture(name)[2])
every_fixture = pytest.mark.parametrize("name", FIXTURES)


@pytest.fixture(scope="module")
def conversions(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[tuple[str, str], tuple[Converted, FlowModel]]:
    """Every conversion in float64, and the model as it loads from its folder, by name and weights.

    Log-determinants of the latter are exact.
    """
    folder, found = tmp_path_factory.mktemp("converted"), {}
    for name in FIXTURES:
        path = write_fixture(folder, name)
        for weights in ("raw", "ema") if name in AVERAGED else ("raw",):
            out, conversion = folder / name / weights, convert(path, weights=weights)
            write(conversion, out)
            conversion.model.double()
            found[name, weights] = conversion, create_model(out, logdet="exact").double()
    return found


@pytest.fixture(scope="module")
def models(conversions) -> dict[tuple[str, str], FlowModel]:
    """Every model as it loads from its folder, by name and weights."""
    return {key: model for key, (_, model) in conversions.items()}


@pytest.fixture(scope="module")
def converted(conversions) -> dict[str, Converted]:
    """Every conversion with raw weights, which knows where they came from."""
    return {name: conversions[name, "raw"][0] for name in FIXTURES}


def golden(name: str) -> dict[str, Tensor]:
    """Golden values in float64."""
    return {key: value.double() for key, value in read_fixture(name)[3].items()}


def close(found: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(found.detach(), expected.reshape(found.shape), atol=atol, rtol=0)


@every_fixture
def test_latents_log_determinants_and_densities(name, models):
    model, expected = models[name, "raw"], golden(name)
    close(model.encode(expected["x"]), expected["z"], 1e-6)
    rows, nats = (slice(1), 1e-3) if name in IMAGES else (slice(None), 1e-6)
    with torch.no_grad():
        close(model.log_prob(expected["x"][rows]), expected["log_prob"][rows], nats)
        if name not in IMAGES:  # theirs take seconds
            close(model.transform(expected["x"])[1], expected["logdet"], nats)


@every_fixture
def test_inverse(name, models):
    expected = golden(name)
    close(models[name, "raw"].decode(expected["z_sample"]), expected["x_sample"], 1e-8)
    close(models[name, "raw"].decode(expected["z"].flatten(1)), expected["x"], 1e-8)


@pytest.mark.parametrize("name", AVERAGED)
def test_averaged_weights(name, models):
    model, expected = models[name, "ema"], golden(name)
    z = model.encode(expected["x"])
    close(z, expected["ema_z"], 1e-6)
    assert not torch.allclose(z, expected["z"].reshape(z.shape), atol=1e-4)
    rows, nats = (slice(1), 1e-3) if name in IMAGES else (slice(None), 1e-6)
    with torch.no_grad():
        close(model.transform(expected["x"][rows])[1], expected["ema_logdet"][rows], nats)


@every_fixture
def test_effective_weights(name, converted):
    model, names, checked = converted[name].model, converted[name].names, 0
    modules, ours = dict(model.named_modules()), {v: k for k, v in names.items()}
    for key, expected in golden(name).items():
        if key.startswith("weff/"):
            layer = modules[ours[f"{key[5:]}.weight"].rpartition(".")[0]]
            close(layer.normalised_weight(), expected, 1e-7)
            checked += 1
    assert checked >= 2


@every_fixture
def test_layers(name, converted):
    """Block by block where all of them are recorded, else on the way of the whole map."""
    model, units = converted[name].model, {}
    for own, key in converted[name].names.items():
        unit = re.match(r"(.*chain\.\d+)\.", key)[1]
        units[unit] = re.match(r"(.*?)(\.net\w*\..*|\.\w+)$", own)[1]
    expected, outputs, logdets = golden(name), {}, {}

    def keep(unit: str):
        def hook(module, inputs, result):
            outputs[unit], logdets[unit] = result

        return hook

    modules = dict(model.named_modules())
    hooks = [modules[path].register_forward_hook(keep(unit)) for unit, path in units.items()]
    for block in model.blocks():
        block.logdet = type(block.logdet)("exact")
    with torch.no_grad():
        model.transform(expected["x"])
    for hook in hooks:
        hook.remove()
    recorded = [key[4:] for key in expected if key.startswith("out/")]
    assert len(recorded) >= 2
    for unit in recorded:
        # Outputs of image models are recorded in float32.
        size = float(expected[f"out/{unit}"].abs().max())
        close(outputs[unit], expected[f"out/{unit}"], 1e-6 * max(size, 1))
        close(logdets[unit], expected[f"logdet/{unit}"], 1e-6)


@pytest.mark.parametrize("name", [name for name in FIXTURES if name not in IMAGES])
def test_gradients(name, converted):
    model, names, expected = converted[name].model, converted[name].names, golden(name)
    loss = -model.log_prob(expected["x"]).mean()
    close(loss, expected["nll"], 1e-6)
    model.zero_grad()
    loss.backward()
    parameters, ours = dict(model.named_parameters()), {v: k for k, v in names.items()}
    checked = [key for key in expected if key.startswith("grad/")]
    assert len(checked) >= 6
    for key in checked:
        close(parameters[ours[key[5:]]].grad, expected[key], 1e-5)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("prefix", ["", "module."], ids=["plain", "parallel"])
@pytest.mark.parametrize("name", ["toy_resflow", "tabular_impflow"])
def test_all_forms_of_a_file_give_the_same_weights(name, legacy, prefix, tmp_path, converted):
    path = write_fixture(tmp_path, name, legacy=legacy, prefix=prefix)
    again = convert(path, weights="raw")
    expected = converted[name].model.state_dict()
    for key, tensor in again.model.state_dict().items():
        assert torch.equal(tensor, expected[key].to(tensor.dtype)), key


def test_what_is_written_is_what_was_saved(tmp_path: Path, converted):
    """Every number of the file, but those of copies and estimators, and no other."""
    _, state, _, _ = read_fixture("img_resflow")
    kept, own = converted["img_resflow"].names, converted["img_resflow"].model.state_dict()
    for key, source in kept.items():
        assert torch.equal(own[key], state[source].to(own[key].dtype))
    left = {key.rpartition(".")[2] for key in state.keys() - set(kept.values())}
    assert left == {
        "geom_p",
        "lamb",
        "last_n_samples",
        "last_firmom",
        "last_secmom",
        "initialized",
        "spatial_dims",
        "scale",
    }
