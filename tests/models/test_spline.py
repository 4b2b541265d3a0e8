"""Spline flows are models of the zoo: trained, saved, certified and scored like the rest."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from nflows.transforms import Permutation
from nflows.transforms.made import MaskedLinear
from safetensors.torch import load_file
from support.small_models import write_recipe

from impflow_zoo import (
    ImpFlow,
    SplineConfig,
    SplineFlow,
    TabularConfig,
    create_model,
    evaluate,
    training,
)
from impflow_zoo.lipschitz.certify import certify
from impflow_zoo.models.fields import ConfigError, ModelError
from impflow_zoo.models.filenames import WEIGHTS
from impflow_zoo.training.recipe import read_recipe

KINDS = ("coupling", "autoregressive")
CONTENT = {"kind": "spline", "features": 2, "blocks": 2, "hidden_features": 8}


@pytest.mark.parametrize("context", [None, 2])
@pytest.mark.parametrize(("features", "blocks"), [(2, 2), (3, 3), (4, 6), (5, 3), (7, 6), (11, 6)])
@pytest.mark.parametrize("layers", KINDS)
def test_every_column_is_transformed_and_sees_the_context(layers, features, blocks, context):
    torch.manual_seed(0)
    sizes = {"blocks": blocks, "hidden_features": 12, "context_features": context}
    flow = SplineFlow(SplineConfig(features, layers=layers, **sizes)).eval()
    with torch.no_grad():
        for p in flow.parameters():
            p += 0.3 * torch.randn_like(p)
    x, contexts = torch.randn(5, features), torch.randn(2, 5, context or 1)
    z, other = (flow.transform(x, None if context is None else c)[0] for c in contexts)
    assert not bool(torch.isin(x, z).any())  # whatever the places of the columns
    if context is not None:
        assert bool((z != other).any(dim=0).all())


@pytest.mark.parametrize(("features", "blocks"), [(2, 2), (3, 3), (4, 6), (5, 5), (7, 6)])
def test_couplings_among_other_blocks_transform_every_column(features, blocks):
    names = ("radial", *blocks * ("spline-coupling",))
    flow = ImpFlow(TabularConfig(features, blocks=names, hidden_features=(8,), actnorm=False))
    orders = [m for m in flow.modules() if isinstance(m, Permutation)]
    columns, transformed = torch.arange(features)[None], set()
    for order in orders:
        columns, _ = order(columns)
        transformed |= {*columns[0, 1::2].tolist()}
    assert transformed == {*range(features)}


def test_nets_are_at_least_as_wide_as_tables():
    """In narrower ones no column would see the last columns."""
    layers = SplineFlow(SplineConfig(12, layers="autoregressive", blocks=1, hidden_features=4))
    (layer,) = (m for m in layers.modules() if hasattr(m, "autoregressive_net"))
    with torch.no_grad():
        for p in layer.parameters():
            p.abs_()
    x = torch.ones(1, 12, requires_grad=True)
    last = layer.autoregressive_net(x)[0].unflatten(0, (12, -1))[-1]
    (slopes,) = torch.autograd.grad(last.sum(), x)
    assert (slopes[0] > 0).tolist() == [True] * 11 + [False]


def model(layers: str, features: int = 3, **settings: object) -> SplineFlow:
    """A model whose splines bend, in float64."""
    torch.manual_seed(0)
    config = SplineConfig(features, layers=layers, blocks=3, hidden_features=12, **settings)
    made = SplineFlow(config).double().eval()
    made.fit_preprocessing(5 + 2 * torch.randn(100, features, dtype=torch.float64))
    with torch.no_grad():
        for p in made.parameters():
            p += 0.3 * torch.randn_like(p)
    return made


@pytest.mark.parametrize("layers", KINDS)
@pytest.mark.parametrize("settings", [{}, {"actnorm": True, "whiten": True}], ids=str)
def test_it_is_a_map_and_its_inverse(layers, settings):
    flow = model(layers, **settings)
    x = flow.sample(20)
    z, forth = flow.transform(x)
    back, logabsdet = flow.transform.inverse(z)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(logabsdet, -forth)
    rows = [torch.autograd.functional.jacobian(lambda r: flow.encode(r[None])[0], row) for row in x]
    torch.testing.assert_close(torch.linalg.slogdet(torch.stack(rows))[1], forth.detach())


@pytest.mark.parametrize("layers", KINDS)
def test_float32_samples_come_back(layers):
    flow = model(layers, 4, bins=16).float()
    x = flow.sample(500, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(flow.decode(flow.encode(x)), x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("layers", KINDS)
def test_no_rows_are_rows(layers):
    flow = model(layers)
    assert flow.log_prob(torch.zeros(0, 3)).shape == (0,)
    assert flow.decode(torch.zeros(0, 3)).shape == (0, 3)
    assert flow.sample(0).shape == (0, 3)


def test_entries_that_masks_leave_out_are_zeros():
    """No answer depends on them; zeros of one sign make the files of a wheel smaller."""
    flow = SplineFlow(SplineConfig(4, layers="autoregressive", blocks=2, hidden_features=12))
    for layer in flow.modules():
        if isinstance(layer, MaskedLinear):
            assert not layer.weight[layer.mask == 0].signbit().any()
    optimizer = torch.optim.AdamW(flow.parameters(), lr=0.1)
    (-flow.log_prob(torch.randn(50, 4)).mean()).backward()
    optimizer.step()
    masked = [layer for layer in flow.modules() if isinstance(layer, MaskedLinear)]
    assert any(bool((layer.mask == 0).any()) for layer in masked)
    for layer in masked:
        assert not layer.weight[layer.mask == 0].any()
        assert layer.weight[layer.mask == 1].all()


@pytest.mark.parametrize("layers", KINDS)
def test_it_depends_on_its_context(layers):
    flow = model(layers, context_features=2)
    contexts = torch.tensor([[0.0, 1.0], [2.0, -1.0]], dtype=torch.float64)
    assert flow.sample(5, contexts).shape == (2, 5, 3)
    x = flow.sample(1, contexts)[:, 0]
    assert not torch.allclose(flow.log_prob(x, contexts), flow.log_prob(x, contexts.flip(0)))
    with pytest.raises(ValueError, match="needs a context"):
        flow.log_prob(x)


@pytest.mark.parametrize("layers", KINDS)
def test_a_recipe_trains_scores_and_saves_it(layers, tmp_path):
    recipe = write_recipe(tmp_path, "SplineFlow", config={**CONTENT, "layers": layers})
    training.train(recipe, out=tmp_path / "run", progress=False)
    loaded = create_model(tmp_path / "run", verify=True)
    assert type(loaded) is SplineFlow
    assert loaded.config == dataclasses.replace(read_recipe(recipe).config, layers=layers)
    result = evaluate(loaded, "toy:moons", limit=50)
    assert (result.metric, result.logdet, result.n) == ("log_likelihood", "exact", 50)
    assert result.estimator_stderr == result.truncation_bound == 0
    assert result.round_trip < 1e-4
    assert certify(loaded) == []


def test_weights_hold_no_masks(tmp_path):
    model("autoregressive").float().save_pretrained(tmp_path)
    assert not [key for key in load_file(tmp_path / WEIGHTS) if "mask" in key]


def test_one_column_has_a_density():
    flow = model("autoregressive", 1)
    x = torch.linspace(-10, 20, 200_001, dtype=torch.float64)  # its slopes reach 60
    with torch.no_grad():
        mass = torch.trapezoid(flow.log_prob(x[:, None]).exp(), x)
    assert float(mass) == pytest.approx(0.9999, abs=1e-3)


BAD = {
    "one column": ({"features": 1}, "features=1: at least 2"),
    "layers": ({"layers": "recurrent"}, "unknown layers 'recurrent': choose coupling, auto"),
    "bins": ({"bins": 1}, "bins=1: between 2 and 500"),
    "tails": ({"tail_bound": 0.0}, "tail_bound=0.0: a positive number up to 16"),
    "dropout": ({"dropout": 1.0}, "dropout=1.0: between 0 and 1"),
    "key": (
        {"lipschitz": 0.9},
        "key 'lipschitz' .*kind 'tabular' .*not 'spline'",
    ),
    "periods": (
        {"periodic": {"x": 1.0}},
        "key 'periodic' .*kind 'tabular'.*, not 'spline'",
    ),
    "columns": ({"columns": ["a"]}, "one entry for 2 columns"),
}


@pytest.mark.parametrize(("settings", "message"), BAD.values(), ids=BAD)
def test_a_bad_setting_is_named(settings, message, tmp_path):
    recipe = write_recipe(tmp_path, "SplineFlow", config={**CONTENT, **settings})
    with pytest.raises(ConfigError, match=message):
        read_recipe(recipe)


def test_families_keep_to_their_configs(tmp_path):
    with pytest.raises(ConfigError, match="SplineFlow .* kind 'spline', not 'tabu"):
        read_recipe(write_recipe(tmp_path, "SplineFlow"))
    with pytest.raises(ConfigError, match="ImpFlow .* 'tabular' or 'image', not 'spline'"):
        read_recipe(write_recipe(tmp_path, config=CONTENT))
    model("coupling", 2).float().save_pretrained(tmp_path / "saved")
    with pytest.raises(ModelError, match="a SplineFlow has no setting logdet"):
        create_model(tmp_path / "saved", logdet="exact")
