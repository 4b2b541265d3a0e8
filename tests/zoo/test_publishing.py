"""What is fit to be published, and what is refused before anything is sent."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import staged_folder
from support.loopback_hub import TOKEN
from support.small_models import make, write_recipe

from impflow_zoo.evaluation.entries import results_text
from impflow_zoo.models import registry
from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.filenames import (
    CONFIG,
    GOLDEN,
    RECIPE,
    RESULTS,
    SCORES,
    TEST_ROWS,
    TRAINING,
    WEIGHTS,
)
from impflow_zoo.models.folder import ModelFolder
from impflow_zoo.training import train
from impflow_zoo.training.facts import TrainingFacts
from impflow_zoo.training.folders import only_run
from impflow_zoo.training.recipe import fingerprint, read_recipe
from impflow_zoo.zoo import sending, staging
from impflow_zoo.zoo.record import Record


def test_a_staged_folder_is_fit(folder):
    (parcel,) = sending.parcels([str(folder)])
    assert parcel.problems == ()
    assert (folder / SCORES).is_file()
    assert set(parcel.files) == {f.name for f in staged_folder.sent(folder)}
    assert parcel.size == sum(f.stat().st_size for f in staged_folder.sent(folder))
    assert re.match(r"org/tiny +9 files, [\d,]+ bytes$", sending.table([parcel], "org"))


def test_rows_that_others_will_be_able_to_read_are_named(folder):
    shutil.copyfile(registry.zoo_folder() / "impflow-power-plant" / TEST_ROWS, folder / TEST_ROWS)
    (parcel,) = sending.parcels([str(folder)])
    assert "test.parquet is sent, too" in sending.table([parcel], "org")


STALE = "README.md does not agree with"


def _edit(name: str, old: str, new: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return change


def _other_golden(folder: Path) -> None:
    torch.manual_seed(5)
    make(blocks=1).save_pretrained(folder / "other")
    os.replace(folder / "other" / GOLDEN, folder / GOLDEN)


def _bound(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    config["certificate"][0]["bound"] = 0.1
    (folder / CONFIG).write_text(json.dumps(config))


def _link(folder: Path) -> None:
    os.replace(folder / RECIPE, folder.parent / "elsewhere")
    (folder / RECIPE).symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda f: (f / GOLDEN).unlink(), "no golden.safetensors"),
        (lambda f: (f / WEIGHTS).unlink(), "no model.safetensors"),
        (lambda f: (f / "density.png").unlink(), "no density.png"),
        (lambda f: (f / CONFIG).write_text("{"), "not valid JSON"),
        (lambda f: os.truncate(f / WEIGHTS, 500), "truncated"),
        (_other_golden, "golden"),
        (_bound, "but config.json records 0.1"),
        (_link, "recipe.yaml is a link"),
        (_edit("recipe.yaml", "data_license:", "data_url:"), "card.data_license missing"),
        (_edit("recipe.yaml", "the data are", "the data were"), STALE),
        (_edit("recipe.yaml", "model: ResFlow", "model: ImpFlow"), STALE),
        (_edit("README.md", "library_name: impflow_zoo", ""), STALE),
        (_edit("README.md", "value: -", "value: about -"), STALE),
        (_edit("README.md", "library_name: ", "library_name: ["), STALE),
        (_edit("README.md", "](curve.png)", "](../../secret.png)"), STALE),
        (_edit("training.json", '"rows_seen": 1000', '"rows_seen": 1001'), STALE),
        (_edit("training.json", '"one CPU', f'"{TOKEN} CPU'), "access token"),
        (lambda folder: (folder / "README.md").write_bytes(b"\xff"), STALE),
    ],
)
def test_what_is_missing_is_named(folder, damage, problem):
    damage(folder)
    (parcel,) = sending.parcels([str(folder)])
    assert problem in "; ".join(parcel.problems)
    assert TOKEN not in "; ".join(parcel.problems)
    with pytest.raises(ModelError, match="nothing was sent, .*: tiny") as refused:
        list(sending.publish([parcel], "org"))
    assert ("impflow-zoo stage" in str(refused.value)) == problem.startswith("no ")


def test_models_without_weights_are_listed_and_not_sent(folder, tmp_path):
    planned = tmp_path / "planned"
    planned.mkdir()
    shutil.copy(folder / RECIPE, planned)
    found = sending.parcels([str(folder), str(planned)])
    sending.check(found, "org")
    assert "no weights, not sent" in sending.table(found, "org").splitlines()[1]
    with pytest.raises(ModelError, match="none of these models has weights"):
        sending.check(found[1:], "org")


def test_staging_keeps_scores_on_other_rows(folder):
    (score,) = Record(ModelFolder(folder)).entries
    other, old = replace(score, split="train", n=5), replace(score, value=1.0)
    (folder / RESULTS).write_text(results_text([old, other]))
    staging.stage(None, folder)
    assert Record(ModelFolder(folder)).entries == (score, other)


def test_a_folder_whose_files_are_damaged_is_staged_again_from_a_run(folder, tmp_path):
    run = shutil.copytree(folder, tmp_path / "run")
    for name in (CONFIG, TRAINING, RESULTS):
        (folder / name).write_text("{")
    staging.stage(run, folder)
    (parcel,) = sending.parcels([str(folder)])
    assert parcel.problems == ()


@pytest.mark.parametrize("fails", ["impflow_zoo.plots.pictures.draw_curves", "os.fsync"])
def test_a_staging_that_fails_leaves_the_folder_as_it_was(fails, folder, monkeypatch):
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    (folder / RESULTS).write_text("[]")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(fails, full)
    with pytest.raises(OSError, match="No space left"):
        staging.stage(None, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_is_staged_by_one_command_at_a_time(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with only_run(folder), pytest.raises(ModelError, match="another `stage` works on .*tiny: wait"):
        staging.stage(None, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("ensemble", [1, 2])
def test_a_run_whose_recipe_was_changed_afterwards_is_not_staged(ensemble, tmp_path):
    """Else its card would tell of settings that nobody trained with."""
    recipe, run = write_recipe(tmp_path / "first"), tmp_path / "run"
    recipe.write_text(recipe.read_text() + f"ensemble: {ensemble}\n")
    train(recipe, out=run, progress=False)
    assert TrainingFacts.read(run).recipe == fingerprint(read_recipe(run / RECIPE))
    (run / RECIPE).write_text((run / RECIPE).read_text().replace("steps: 4", "steps: 5"))
    folder = tmp_path / "own"
    folder.mkdir()
    shutil.copyfile(run / RECIPE, folder / RECIPE)
    for arguments in ((None, run), (run, folder)):
        with pytest.raises(ModelError, match="run/recipe.yaml was changed after its weights"):
            staging.stage(*arguments)


def test_a_run_that_went_on_with_a_further_stage_is_staged(tmp_path):
    recipe, run = write_recipe(tmp_path / "first"), tmp_path / "run"
    train(recipe, out=run, progress=False)
    recipe.write_text(recipe.read_text() + "stages: [{}, {learning_rate: 1.0e-4}]\n")
    train(recipe, out=run, resume=True, progress=False)
    staging.stage(None, run)
    (parcel,) = sending.parcels([str(run)])
    assert parcel.problems == ()


@pytest.mark.parametrize("model", ["", "..", "nothing", "../nothing", "/nowhere"])
def test_names_that_are_no_model(model):
    with pytest.raises(ModelError, match="neither a model of the zoo nor"):
        sending.check(sending.parcels([model]), "org")


@pytest.mark.parametrize("namespace", ["", "a/b", "..", "org name", "../x"])
def test_namespaces_that_are_none(folder, namespace):
    with pytest.raises(ModelError, match="neither a folder nor a Hub id"):
        sending.check(sending.parcels([str(folder)]), namespace)


def test_the_folder_one_is_in_is_published_under_its_name(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert sending.parcels(["."]) == sending.parcels([str(folder)])


def test_a_linked_folder_has_the_name_of_the_link(folder, tmp_path):
    (tmp_path / "alias").symlink_to(folder)
    staging.stage(None, tmp_path / "alias")
    (parcel,) = sending.parcels([str(tmp_path / "alias")])
    assert (parcel.name, parcel.problems) == ("alias", ())


@pytest.mark.parametrize("name", [RECIPE, CONFIG, TRAINING, RESULTS])
def test_a_damaged_model_stops_no_other(name, folder, tmp_path):
    (shutil.copytree(folder, tmp_path / "bad") / name).write_text("{")
    staging.stage(None, folder)
    (parcel,) = sending.parcels([str(folder)])
    assert parcel.problems == ()


@pytest.mark.slow
def test_the_whole_zoo_is_fit():
    """What a maintainer sends with one command; if it fails, the folder has to be staged again."""
    found = sending.parcels()
    sending.check(found, "org")
    assert [p.name for p in found if not p.files] == registry.list_models(pretrained=False)
