"""Loading files of a model: what was saved is loaded, and anything else is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.small_models import make, rows

from impflow_zoo import ImpFlow, LogDet, ResFlow, Solver, create_model
from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.filenames import CONFIG, GOLDEN, WEIGHTS
from impflow_zoo.models.flow import FlowModel

SAVED = {
    "ImpFlow": lambda: make(ImpFlow, dtype=torch.float32),
    "ResFlow": lambda: make(ResFlow, dtype=torch.float32),
    "double": lambda: make(ImpFlow),
    "conditional": lambda: make(ImpFlow, context_features=3),
    "in training": lambda: make(ImpFlow).train(),
    "not trained": lambda: ImpFlow(make().config),
}


# ---------------------------------------------------------------------------- what is loaded


@pytest.mark.parametrize("name", SAVED)
def test_the_loaded_model_is_the_saved_one(name, tmp_path):
    saved = SAVED[name]()
    saved.save_pretrained(tmp_path)
    loaded = type(saved).from_pretrained(tmp_path, verify=True)
    assert loaded.config == saved.config
    assert not loaded.training
    own, other = saved.state_dict(), loaded.state_dict()
    assert own.keys() == other.keys()
    for key, tensor in own.items():
        assert torch.equal(tensor, other[key]), key
        assert tensor.dtype == other[key].dtype, key
    saved.eval()
    size = saved.config.context_features
    x, c = rows(50), None if size is None else torch.randn(50, size)
    assert torch.equal(saved.log_prob(x, c), loaded.log_prob(x, c))
    loaded.save_pretrained(tmp_path / "again")
    for file in (CONFIG, WEIGHTS):
        assert (tmp_path / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file


def test_settings_of_the_file_can_be_overridden(folder):
    solver = Solver(rtol=1e-3)
    loaded = ImpFlow.from_pretrained(
        folder, logdet="unbiased", solver=solver, seed=5, dtype=torch.float64, device="cpu"
    )
    assert loaded.config.logdet == LogDet("unbiased")
    assert loaded.config.seed == 5
    for i, block in enumerate(loaded.blocks()):
        assert block.logdet == LogDet("unbiased").seeded(5, i)
        assert block.solver == solver
    assert {p.dtype for p in loaded.parameters()} == {torch.float64}
    with torch.no_grad():
        assert not torch.equal(*(loaded.log_prob(rows(4).fill_(2.5)) for _ in range(2)))


def test_a_seed_changes_seeded_probes_and_nothing_else(folder):
    logdet = LogDet("truncated", n_probes=1)
    x = rows()
    first, same, other = (
        ImpFlow.from_pretrained(folder, logdet=logdet, seed=seed).log_prob(x) for seed in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_a_model_loads_under_inference_mode_and_still_trains(folder):
    with torch.inference_mode():
        loaded = ImpFlow.from_pretrained(folder)
    loaded.log_prob(rows()).sum().backward()
    assert all(p.grad is not None for p in loaded.parameters())


def test_a_model_is_verified_and_saved_under_inference_mode(folder, tmp_path):
    with torch.inference_mode():
        loaded = ImpFlow.from_pretrained(folder, verify=True)
        loaded.save_pretrained(tmp_path / "again")
        loaded.to_normflows().sample(3)
    again = ImpFlow.from_pretrained(tmp_path / "again", verify=True)
    x = rows()
    assert torch.equal(again.log_prob(x), loaded.log_prob(x))


def test_the_class_is_found_out_and_the_wrong_one_told(folder):
    assert type(FlowModel.from_pretrained(folder)) is ImpFlow
    assert type(create_model(folder)) is ImpFlow
    with pytest.raises(ModelError, match=r"holds .* type ImpFlow, .* use ImpFlow\."):
        ResFlow.from_pretrained(folder)


# ------------------------------------------------------------------------ what is not loaded


def edit(**changes: Any) -> Callable[[Path], None]:
    """Change keys of config.json; those with a dot lie in its config, None removes."""

    def change(folder: Path) -> None:
        path = folder / CONFIG
        data = json.loads(path.read_text())
        for key, value in changes.items():
            inner = key not in data and key != "notes"
            target = data["config"] if inner else data
            if value is None:
                del target[key]
            else:
                target[key] = value
        path.write_text(json.dumps(data))

    return change


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    """Change the tensors, and record their new checksum: a file as another program writes it."""

    def apply(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)
        data = json.loads((folder / CONFIG).read_text())
        del data["weights"]
        (folder / CONFIG).write_text(json.dumps(data))

    return apply


def _pickle_only(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def _truncate(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def _other_weights(folder: Path) -> None:
    save_file(make(dtype=torch.float32).state_dict(), folder / WEIGHTS)


KEY = "flow._transform._transforms.1.net_x.layers.0.bias"
DAMAGE = {
    "missing weights": (lambda f: (f / WEIGHTS).unlink(), "has no model.safetensors"),
    "pickle only": (_pickle_only, "a pickle.*could run code"),
    "truncated weights": (_truncate, "model.safetensors is truncated or damaged"),
    "weights of another save": (_other_weights, "has sha256 .*the config records"),
    "missing tensor": (weights(lambda t: t.pop(KEY)), rf"1 missing \(first: {KEY}\)"),
    "extra tensor": (weights(lambda t: t.update(more=t[KEY].clone())), r"1 unexpected.*more"),
    "another shape": (weights(lambda t: t.update({KEY: torch.ones(3)})), rf"{KEY} has shape \(3,"),
    "NaN": (weights(lambda t: t[KEY].fill_(torch.nan)), f"{KEY} holds NaN"),
    "no config": (lambda f: (f / CONFIG).unlink(), "no config.json: not a model"),
    "no JSON": (lambda f: (f / CONFIG).write_text("{"), "not valid JSON"),
    "no JSON object": (lambda f: (f / CONFIG).write_text("[]"), "is not a JSON object"),
    "binary config": (lambda f: (f / CONFIG).write_bytes(b"\xff\xfe"), "not valid JSON"),
    "newer format": (edit(format=99), "format 99.*reads up to 1.*upgrade impflow_zoo"),
    "no format": (edit(format="1"), "no valid 'format'"),
    "unknown model": (edit(model="GlowFlow"), "unknown model 'GlowFlow': .*Imp"),
    "unknown entry": (edit(notes="hello"), "unknown key 'notes' in config.json"),
    "unknown key": (edit(blokcs=3), "unknown config key 'blokcs'.*'blocks'"),
    "unknown nested key": (edit(solver={"rtoll": 1}), "'solver.rtoll'; did you mean 'rtol'"),
    "missing key": (edit(features=None), "config key 'features' is missing"),
    "unknown kind": (edit(kind="audio"), "unknown kind of model 'audio'"),
    "text for a number": (edit(blocks="2"), "'blocks' is '2': int expected"),
    "text for settings": (edit(logdet="exact"), "'logdet' is 'exact': settings by name"),
    "unknown activation": (edit(activation="swish"), "unknown activation .*'swish': choose "),
    "unknown metric": (edit(metric="fid"), "unknown metric 'fid': choose log_likelihood"),
    "unknown log-det": (edit(logdet={"mode": "exakt"}), "unknown logdet 'exakt': choose auto"),
    "unknown solver": (edit(solver={"method": "magic"}), "unknown method 'magic'"),
    "no contraction": (edit(lipschitz=1.5), "lipschitz=1.5: between 0 and 1"),
    "NaN setting": (edit(lipschitz=float("nan")), "lipschitz.*nan"),
    "no columns": (edit(features=0), "features=0: at least 1"),
    "no context": (edit(context_features=0), "context_features=0: at least 1"),
    "columns that do not match": (edit(columns=["a"]), "columns.*one entry for 2 columns"),
    "negative rounding": (edit(rounding=[-1, 0]), "steps of at least 0"),
    "checksum by another name": (edit(weights={"sha": "0"}), "'weights' has keys .*only 'sha256'"),
    "no checksum where one is due": (edit(weights={}), "'weights' has keys .*only 'sha256'"),
    "checksum of the wrong type": (edit(weights={"sha256": 5}), "'weights.sha256' is 5: str"),
    "weights of the wrong type": (edit(weights=[1]), r"'weights' is \[1\]"),
    "certificate of the wrong type": (edit(certificate=[{"name": "net", "bound": "1"}]), "bound"),
}


def test_a_file_is_no_folder_to_save_into(tmp_path):
    (tmp_path / "file.csv").write_text("mine")
    with pytest.raises(ModelError, match="file.csv is a file"):
        make().save_pretrained(tmp_path / "file.csv")
    assert (tmp_path / "file.csv").read_text() == "mine"


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_folder_is_refused(damage, message, folder, monkeypatch):
    damage(folder)
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("a pickle was opened"))
    with pytest.raises(ModelError, match=message) as caught:
        ImpFlow.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value) or WEIGHTS in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "a/b/c", "/nowhere/at-all", ""])
def test_what_is_neither_folder_nor_hub_id_is_refused(name):
    with pytest.raises(ModelError, match="neither a folder nor a Hub id"):
        ImpFlow.from_pretrained(name)


def test_a_file_in_place_of_a_folder_is_refused(folder):
    with pytest.raises(ModelError, match="neither a folder nor a Hub id"):
        ImpFlow.from_pretrained(folder / WEIGHTS)


OVERRIDES = {
    "mode": ({"logdet": "exaxt"}, "unknown logdet 'exaxt': choose auto, exact"),
    "method": ({"solver": "newton"}, "'solver' is 'newton': settings by name"),
    "seed": ({"seed": 0.5}, "'seed' is 0.5: int expected"),
    "narrow type": (
        {"dtype": torch.float16},
        r"dtype=torch.float16: torch.float32 or torch.float64",
    ),
    "type by name": ({"dtype": "float64"}, "dtype='float64': torch.float32 or torch.float64"),
    "unknown device": ({"device": "cud"}, "device='cud': "),
}
if not torch.cuda.is_available():
    OVERRIDES["absent device"] = ({"device": "cuda"}, "device='cuda': .*(CUDA|NVIDIA)")


@pytest.mark.parametrize(("options", "message"), OVERRIDES.values(), ids=OVERRIDES)
def test_bad_overrides_are_refused(options, message, folder):
    with pytest.raises(ValueError, match=message) as caught:
        ImpFlow.from_pretrained(folder, **options)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------ verification


def _shift_golden(folder: Path) -> None:
    golden = load_file(folder / GOLDEN)
    golden["log_prob"] += 1e-3
    save_file(golden, folder / GOLDEN)


def _lower_certificate(folder: Path) -> None:
    data = json.loads((folder / CONFIG).read_text())
    data["certificate"][0]["bound"] *= 0.9
    (folder / CONFIG).write_text(json.dumps(data))


def test_a_certificate_may_differ_by_the_rounding_of_another_processor(folder):
    data = json.loads((folder / CONFIG).read_text())
    data["certificate"][0]["bound"] *= 1 - 5e-7
    (folder / CONFIG).write_text(json.dumps(data))
    ImpFlow.from_pretrained(folder, verify=True)


UNTRUE = {
    "golden log-probabilities": (
        _shift_golden,
        "does not reproduce golden.safetensors: .* 0.001",
    ),
    "certificate": (_lower_certificate, r"Lip <= 0\.\d+ .*but config.json records"),
    "no golden batch": (lambda f: (f / GOLDEN).unlink(), "nothing to verify against"),
    "golden batch cut": (
        lambda f: (f / GOLDEN).write_bytes((f / GOLDEN).read_bytes()[:99]),
        "golden.safetensors is truncated",
    ),
    "golden batch of another kind": (
        lambda f: save_file({"inputs": torch.ones(1)}, f / GOLDEN),
        "the model does not reproduce golden.safetensors",
    ),
    "golden batch without end": (
        lambda f: save_file({"inputs": torch.ones(3_000_000, 2)}, f / GOLDEN),
        "3,000,000 rows, 8 at most",
    ),
}


@pytest.mark.parametrize(("damage", "message"), UNTRUE.values(), ids=UNTRUE)
def test_verification_finds_what_is_not_true(damage, message, folder):
    damage(folder)
    ImpFlow.from_pretrained(folder)
    with pytest.raises(ModelError, match=message):
        ImpFlow.from_pretrained(folder, verify=True)


def test_a_model_is_saved_within_autocast(tmp_path):
    model = make(dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model.save_pretrained(tmp_path / "within")
    model.save_pretrained(tmp_path / "without")
    ImpFlow.from_pretrained(tmp_path / "within", verify=True)
    a, b = (load_file(tmp_path / name / GOLDEN) for name in ("within", "without"))
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("logdet", ["unbiased", "truncated"])
def test_verification_is_of_the_weights_whatever_the_settings(logdet, tmp_path):
    make(logdet=LogDet(logdet)).save_pretrained(tmp_path)
    ImpFlow.from_pretrained(tmp_path, seed=5, solver=Solver(rtol=1e-2), verify=True)


def test_anybody_can_reproduce_the_golden_batch(tmp_path):
    make(features=70, seed=3, logdet=LogDet(n_probes=2, rtol=1e-2)).save_pretrained(tmp_path)
    golden = load_file(tmp_path / "golden.safetensors")
    model = ImpFlow.from_pretrained(tmp_path, dtype=torch.float64)
    log_prob = model.log_prob(golden["inputs"])
    assert torch.allclose(log_prob, golden["log_prob"], rtol=1e-12, atol=1e-12)


def test_loading_takes_no_random_numbers(folder):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    ImpFlow.from_pretrained(folder)
    assert torch.equal(torch.rand(3), expected)
