"""Files of a model: what is saved is what is loaded, whole, and anything else is refused."""

from __future__ import annotations

import builtins
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.hub_mixin
import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from support.small_models import make, rows

from impflow_zoo import ImpFlow, LogDet, ResFlow, Solver, create_model
from impflow_zoo.models import writing
from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.folder import CARD, CONFIG, GOLDEN, WEIGHTS

SAVED = {
    "ImpFlow": lambda: make(ImpFlow, dtype=torch.float32),
    "ResFlow": lambda: make(ResFlow, dtype=torch.float32),
    "double": lambda: make(ImpFlow),
    "conditional": lambda: make(ImpFlow, context_features=3),
    "in training": lambda: make(ImpFlow).train(),
    "not trained": lambda: ImpFlow(make().config),
}


@pytest.fixture
def model() -> FlowModel:
    return make(dtype=torch.float32)


@pytest.fixture
def folder(model, tmp_path) -> Path:
    """A folder that a model was saved to."""
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


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


def test_the_class_is_found_out_and_the_wrong_one_told(folder):
    assert type(FlowModel.from_pretrained(folder)) is ImpFlow
    assert type(create_model(folder)) is ImpFlow
    with pytest.raises(ModelError, match=r"holds a model of type ImpFlow, .* use ImpFlow\."):
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
    "pickle only": (_pickle_only, "a pickle.*which could run code and is not opened"),
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
    "unknown key": (edit(blokcs=3), "unknown config key 'blokcs'; did you mean 'blocks'"),
    "unknown nested key": (edit(solver={"rtoll": 1}), "'solver.rtoll'; did you mean 'rtol'"),
    "missing key": (edit(features=None), "config key 'features' is missing"),
    "unknown kind": (edit(kind="audio"), "unknown kind of model 'audio'"),
    "text for a number": (edit(blocks="2"), "'blocks' is '2': int expected"),
    "fraction for a count": (edit(blocks=2.5), "'blocks' is 2.5: int expected"),
    "truth for a count": (edit(blocks=True), "'blocks' is True: int expected"),
    "text in a list": (edit(hidden_features=[8, "8"]), r"'hidden_features\[1\]' is '8': int"),
    "number for a list": (edit(hidden_features=8), "'hidden_features' is 8: list"),
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
    with pytest.raises(ModelError, match="file.csv is a file: a model is saved into a folder"):
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


UNTRUE = {
    "golden log-probabilities": (
        _shift_golden,
        "the model does not reproduce golden.safetensors: .* difference: 0.001",
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


# ------------------------------------------------------------------------------------ saving


class Disk:
    """Lets a number of files be opened for writing; the next write fails."""

    def __init__(self, files: int) -> None:
        self.left, self.open = files, builtins.open

    def __call__(self, file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        handle = self.open(file, mode, *args, **options)
        if "w" not in mode:
            return handle
        self.left -= 1
        if self.left < 0:
            handle.write = self.full
        return handle

    def full(self, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("files", [0, 1, 2])
def test_a_full_disk_leaves_the_model_that_was_there(files, folder, monkeypatch):
    before = contents(folder)
    with monkeypatch.context() as patch:
        patch.setattr(writing, "open", Disk(files), raising=False)
        with pytest.raises(OSError, match="No space left"):
            make(dtype=torch.float32).save_pretrained(folder)
    assert contents(folder) == before


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_an_interrupt_leaves_one_of_the_two_models(renames, folder, monkeypatch):
    other, calls, replace = make(dtype=torch.float32), [], os.replace

    def interrupted(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == renames + 1:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            other.save_pretrained(folder)
    x = rows()
    loaded = ImpFlow.from_pretrained(folder, verify=True)
    assert torch.equal(loaded.log_prob(x), other.log_prob(x))
    assert not [name for name in contents(folder) if name.startswith(".")]


def test_a_card_is_kept_unless_another_is_given(model, folder):
    assert "ImpFlow.from_pretrained" in (folder / CARD).read_text()
    (folder / CARD).write_text("mine")
    model.save_pretrained(folder)
    assert (folder / CARD).read_text() == "mine"
    model.save_pretrained(folder, card="new")
    assert (folder / CARD).read_text() == "new"


def test_saving_changes_no_answer(model, tmp_path):
    x = rows()
    before = model.log_prob(x)
    model.save_pretrained(tmp_path / "made" / "on the way")
    assert not model.training
    assert torch.equal(model.log_prob(x), before)


@pytest.fixture
def uploads(monkeypatch) -> list[dict[str, Any]]:
    """What would have gone to the Hub."""
    calls: list[dict[str, Any]] = []

    def upload(self: HfApi, *, folder_path: Path, **options: Any) -> str:
        loaded = FlowModel.from_pretrained(folder_path, verify=True)
        calls.append({"model": loaded, "files": set(os.listdir(folder_path)), **options})
        return "commit"

    class Made:
        repo_id = "me/flow"

    api = huggingface_hub.hub_mixin.HfApi
    monkeypatch.setattr(api, "create_repo", lambda self, **options: Made)
    monkeypatch.setattr(api, "upload_folder", upload)
    return calls


PUSHES = {
    "push_to_hub": lambda m, f: m.push_to_hub("me/flow", commit_message="new"),
    "save_pretrained": lambda m, f: m.save_pretrained(
        f, push_to_hub=True, repo_id="me/flow", commit_message="new"
    ),
}


@pytest.mark.parametrize("push", PUSHES.values(), ids=PUSHES)
def test_what_is_pushed_is_what_is_saved(push, model, tmp_path, uploads):
    push(model, tmp_path / "flow")
    (upload,) = uploads
    assert upload["repo_id"] == "me/flow"
    assert upload["commit_message"] == "new"
    assert upload["files"] == {CONFIG, WEIGHTS, GOLDEN, CARD}
    x = rows()
    assert torch.equal(upload["model"].log_prob(x), model.log_prob(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_narrow_weights_are_widened(dtype, tmp_path):
    make().save_pretrained(tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    narrow = {k: t.to(dtype) if t.is_floating_point() else t for k, t in weights.items()}
    save_file(narrow, tmp_path / WEIGHTS)
    description = json.loads((tmp_path / "config.json").read_text())
    description["weights"] = None
    (tmp_path / "config.json").write_text(json.dumps(description))
    model = FlowModel.from_pretrained(tmp_path)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert bool(model.log_prob(rows(dtype=torch.float32)).isfinite().all())


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    model = make()
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(ModelError, match="holds NaN or infinity: the model is not saved"):
        model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_weights_in_half_precision_are_not_saved(dtype, tmp_path):
    with pytest.raises(ModelError, match=r"is in torch\.\w*float16, .*: save model.float\(\)"):
        make().to(dtype).save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


class Mine(ImpFlow):
    """A user's own."""


def test_a_subclass_is_saved_as_what_it_derives_from(tmp_path, monkeypatch):
    saved = Mine(make().config).eval()
    saved.save_pretrained(tmp_path)
    for kind in (Mine, ImpFlow, FlowModel):
        loaded = kind.from_pretrained(tmp_path, verify=True)
        assert type(loaded) is (ImpFlow if kind is FlowModel else kind)
    with pytest.raises(ModelError, match="holds a model of type ImpFlow, not ResFlow"):
        ResFlow.from_pretrained(tmp_path)
    (tmp_path / "README.md").unlink()
    monkeypatch.chdir(tmp_path)
    saved.save_pretrained(".")
    assert f'ImpFlow.from_pretrained("{tmp_path.name}")' in (tmp_path / "README.md").read_text()


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    model = make()
    block = next(iter(model.blocks()))
    block.net_x = torch.nn.Linear(2, 2).double()
    message = r"tensors \d+ missing .*: the saved model could not be loaded"
    with pytest.raises(ModelError, match=message):
        model.save_pretrained(tmp_path / "never")
    assert not (tmp_path / "never").exists()
