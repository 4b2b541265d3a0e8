"""Saving: a folder holds one whole model at any time, and what cannot be loaded is not saved."""

from __future__ import annotations

import builtins
import errno
import json
import os
from pathlib import Path
from typing import Any

import huggingface_hub.hub_mixin
import pytest
import torch
from huggingface_hub import HfApi
from nflows.transforms import CompositeTransform, LeakyReLU
from safetensors.torch import load_file, save_file
from support.small_models import make, rows

from impflow_zoo import ImpFlow, ResFlow
from impflow_zoo.models import writing
from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.filenames import CARD, CONFIG, GOLDEN, WEIGHTS
from impflow_zoo.models.flow import FlowModel


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


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


@pytest.mark.parametrize("renames", [0, 1, 2, 3])
def test_an_interrupt_leaves_one_of_the_two_models(renames, model, folder, monkeypatch):
    """The first renaming, of the journal, decides which."""
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
    expected = other if renames else model
    assert torch.equal(loaded.log_prob(x), expected.log_prob(x))
    assert not [name for name in contents(folder) if name.startswith(".")]


def test_a_card_is_kept_unless_another_is_given(model, folder):
    assert "ImpFlow.from_pretrained" in (folder / CARD).read_text()
    (folder / CARD).write_text("mine")
    model.save_pretrained(folder)
    assert (folder / CARD).read_text() == "mine"
    model.save_pretrained(folder, card="new")
    assert (folder / CARD).read_text() == "new"


def test_a_card_names_the_columns(tmp_path):
    named = {"columns": ("AT", "P|E"), "context_columns": ("V", "RH_2, %")}
    make(dtype=torch.float32, **named).save_pretrained(tmp_path / "named")
    card = (tmp_path / "named" / CARD).read_text()
    assert 'Columns, in order: AT, P\\|E.\n\nGiven: V, "RH\\_2, %".\n' in card
    make(dtype=torch.float32).save_pretrained(tmp_path / "without")
    assert "olumns" not in (tmp_path / "without" / CARD).read_text()


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


@pytest.mark.parametrize("push", [False, True])
@pytest.mark.parametrize(
    ("option", "meant"), [("crad", "card"), ("push_to_hbu", "push_to_hub"), ("privat", "private")]
)
def test_an_option_of_another_name_is_refused(option, meant, push, model, tmp_path, uploads):
    message = f"unknown option '{option}'; did you mean '{meant}'"
    with pytest.raises(TypeError, match=message):
        model.save_pretrained(tmp_path / "flow", push_to_hub=push, **{option: True})
    with pytest.raises(TypeError, match=message):
        model.push_to_hub("flow", **{option: True})
    assert not (tmp_path / "flow").exists()
    assert not uploads


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


def test_a_folder_without_a_name_is_not_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="the name of the folder is empty"):
        make().save_pretrained("")
    assert not list(tmp_path.iterdir())


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    model = make()
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(ModelError, match="holds NaN or infinity"):
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
    with pytest.raises(ModelError, match="holds .* type ImpFlow, not ResFlow"):
        ResFlow.from_pretrained(tmp_path)
    (tmp_path / "README.md").unlink()
    monkeypatch.chdir(tmp_path)
    saved.save_pretrained(".")
    card, name = (tmp_path / "README.md").read_text(), tmp_path.name
    assert f'ImpFlow.from_pretrained("{name}")' in card
    assert f"in the folder that contains `{name}`" in card


class WithAStepMore(ImpFlow):
    """Another density with the same tensors."""

    def build(self):
        return CompositeTransform([*super().build()._transforms, LeakyReLU(0.5)])


class WithAnotherScore(ImpFlow):
    """Its score is no density."""

    def _log_prob(self, *arguments, **options):
        return 2 * super()._log_prob(*arguments, **options)


@pytest.mark.parametrize("kind", [WithAStepMore, WithAnotherScore])
def test_a_subclass_that_answers_differently_is_not_saved(kind, tmp_path):
    saved = kind(make().config).eval()
    message = f"as ImpFlow, which answers differently: register {kind.__name__}"
    with pytest.raises(ModelError, match=message):
        saved.save_pretrained(tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    model = make()
    block = next(iter(model.blocks()))
    block.net_x = torch.nn.Linear(2, 2).double()
    message = r"tensors \d+ missing .*could not be loaded"
    with pytest.raises(ModelError, match=message):
        model.save_pretrained(tmp_path / "never")
    assert not (tmp_path / "never").exists()
