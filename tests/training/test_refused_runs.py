"""What a run refuses: folders of others, other recipes, and data that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.runs import train
from support.small_models import make, write_recipe

from impflow_zoo import (
    ResFlow,
    create_model,
    evaluate,
)
from impflow_zoo.data import DataError, open_toy
from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.filenames import CHECKPOINT, LOG
from impflow_zoo.training import Trainer
from impflow_zoo.zoo import staging


def refused(folder: Path, message: str, error: type[Exception] = ModelError, **options: Any):
    sections = {k: options.pop(k) for k in ("config", "data", "training", "model") if k in options}
    recipe = write_recipe(folder / "recipe", **sections)
    with pytest.raises(error, match=message) as caught:
        train(recipe, options.pop("out", folder / "run"), **options)
    assert "\n" not in str(caught.value)


def test_nothing_is_overwritten(uninterrupted, tmp_path):
    _, whole = uninterrupted
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    refused(tmp_path, "holds a run already: --resume it", out=whole)
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == before
    make().save_pretrained(tmp_path / "model")
    refused(tmp_path, "holds a model.safetensors of something else", out=tmp_path / "model")


@pytest.mark.parametrize("name", ["config.json", "recipe.yaml", "golden.safetensors"])
def test_files_of_something_else_are_not_overwritten(name, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("mine")
    refused(tmp_path, f"holds a {name} of something", out=tmp_path / "mine")
    assert [path.read_text() for path in (tmp_path / "mine").iterdir()] == ["mine"]


def test_a_file_is_no_folder_for_a_run(tmp_path):
    (tmp_path / "file").write_text("")
    refused(tmp_path, "is a file", out=tmp_path / "file")


def test_another_seed_is_not_put_into_the_user_s_recipe(tmp_path):
    recipe = write_recipe(tmp_path)
    before = recipe.read_text()
    with pytest.raises(ModelError, match="holds a recipe.yaml of something"):
        train(recipe, tmp_path, seed=3)
    assert recipe.read_text() == before


def test_what_a_run_left_before_its_first_checkpoint_is_no_hindrance(tmp_path):
    recipe = write_recipe(tmp_path / "recipe")
    (tmp_path / "run").mkdir()
    for name in (LOG, "recipe.yaml"):
        (tmp_path / "run" / name).write_text("left")
    assert train(recipe, tmp_path / "run")["step"] == 4


def test_resuming_and_starting_from_a_model_exclude_each_other(uninterrupted, tmp_path):
    _, whole = uninterrupted
    refused(tmp_path, "leave --init-from out", out=whole, resume=True, init_from="x/y")


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.999])
def test_a_damaged_checkpoint_is_refused(keep, uninterrupted, tmp_path):
    recipe, whole = uninterrupted
    content = (whole / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ModelError, match="checkpoint.safetensors is damaged"):
        train(recipe, tmp_path, resume=True)


@pytest.mark.parametrize(
    "change",
    [{"model": "ResFlow"}, {"config": {"hidden_features": [9]}}, {"config": {"blocks": 2}}],
    ids=str,
)
def test_a_checkpoint_of_another_recipe_is_refused(change, uninterrupted, tmp_path):
    _, whole = uninterrupted
    (tmp_path / CHECKPOINT).write_bytes((whole / CHECKPOINT).read_bytes())
    refused(tmp_path, "belongs to another recipe", out=tmp_path, resume=True, **change)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"training": {"steps": 8}}, "training.steps"),
        ({"training": {"learning_rate": 0.5}}, "training.learning_rate"),
        ({"data": {"dataset": "toy:rings"}}, "data.dataset"),
        ({"config": {"lipschitz": 0.5}}, "config.lipschitz"),
        ({"model": "ResFlow"}, "model"),
        ({"training": {"steps": 8, "clip_norm": 2.0}}, "training.steps, training.clip_norm"),
    ],
    ids=str,
)
def test_a_run_goes_on_with_its_own_recipe_alone(change, named, tmp_path):
    settings = {"training": {"validate_every": 1}}
    train(write_recipe(tmp_path / "recipe", **settings), tmp_path / "run", max_minutes=0.0)
    change = {**change, "training": {**settings["training"], **change.get("training", {})}}
    before = (tmp_path / "run" / CHECKPOINT).read_bytes()
    words = rf"another recipe \({named}\): .*/run/recipe.yaml, .*--init-from"
    refused(tmp_path, words, resume=True, **change)
    assert (tmp_path / "run" / CHECKPOINT).read_bytes() == before


def write_moons(folder: Path, n: int = 200, columns: str = "a,b") -> Path:
    """A table with the splits train and validation; its columns may come the other way round."""
    folder.mkdir()
    rows = open_toy("moons", n, 0).rows(range(n))
    if columns == "b,a":
        rows = rows.flip(1)
    for split in ("train", "validation"):
        lines = [columns, *(f"{x},{y}" for x, y in rows.tolist())]
        (folder / f"{split}.csv").write_text("\n".join(lines))
    return folder


def test_columns_that_a_recipe_does_not_name_are_those_of_the_data(tmp_path):
    """Else a file with others, or in another order, would be scored as if it were the same."""
    recipe = write_recipe(tmp_path / "recipe", data={"dataset": None, "test": "train"})
    data = write_moons(tmp_path / "one")
    train(recipe, tmp_path / "run", data=str(data))
    assert create_model(tmp_path / "run").config.columns == ("a", "b")
    value = evaluate(tmp_path / "run", str(data), "train").value
    turned = write_moons(tmp_path / "turned", columns="b,a")
    assert evaluate(tmp_path / "run", str(turned), "train").value == pytest.approx(value)
    with pytest.raises(DataError, match="no column a, only x, b"):
        evaluate(tmp_path / "run", str(write_moons(tmp_path / "other", columns="x,b")), "train")
    recipe = recipe.rename(tmp_path / "run" / "recipe.yaml")
    with pytest.raises(ModelError, match="was trained on rows of"):
        staging.stage(tmp_path / "run", tmp_path / "run", data=str(data))
    fresh = write_moons(tmp_path / "fresh", 150)
    staging.stage(tmp_path / "run", tmp_path / "run", data=str(fresh))


def test_a_run_goes_on_with_the_rows_it_had(tmp_path):
    for name, n in (("one", 200), ("other", 150)):
        write_moons(tmp_path / name, n)
    write_moons(tmp_path / "turned", columns="b,a")
    recipe = write_recipe(tmp_path / "recipe", data={"dataset": None})
    train(recipe, tmp_path / "run", data=str(tmp_path / "one"), max_minutes=0.0)
    middle = write_moons(tmp_path / "middle", 200) / "train.csv"
    lines = middle.read_text().splitlines()
    middle.write_text("\n".join([*lines[:100], "0.5,0.5", *lines[101:]]))
    for other in ("other", "turned", "middle"):
        with pytest.raises(ModelError, match="was trained on other rows: .* --data"):
            train(recipe, tmp_path / "run", data=str(tmp_path / other), resume=True)
    validated = write_moons(tmp_path / "validated", 200) / "validation.csv"
    validated.write_text("\n".join([*validated.read_text().splitlines()[:-1], "0.5,0.5"]))
    with pytest.raises(ModelError, match="was validated on other rows: .* --data"):
        train(recipe, tmp_path / "run", data=str(tmp_path / "validated"), resume=True)
    assert train(recipe, tmp_path / "run", data=str(tmp_path / "one"), resume=True)["step"] == 4


def test_weights_of_another_model_are_no_start(tmp_path):
    make(ResFlow, blocks=1, hidden_features=(8,)).save_pretrained(tmp_path / "other")
    refused(tmp_path, "tensors .*missing", init_from=str(tmp_path / "other"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"columns": ["y", "x"]}, r"has columns .*'y', 'x'.*, not .*'x', 'y'"),
        ({"bounds": {"x": [-20, 20]}}, r"has bounds .*20.*, not \{\}"),
    ],
)
def test_weights_for_other_columns_are_no_start(settings, words, tmp_path):
    known = {"blocks": 1, "hidden_features": (8,), "columns": ["x", "y"], **settings}
    make(**known).save_pretrained(tmp_path / "other")
    own = {"columns": ["x", "y"]}
    refused(tmp_path, words, config=own, init_from=str(tmp_path / "other"))


NO_DATA = {
    "no data set": ({"dataset": None}, {}, "names no data set: .*--data"),
    "unknown toy": ({"dataset": "toy:square"}, {}, "unknown toy 'square'"),
    "unknown split": ({"train": "training"}, {}, "no split 'training', .*: train"),
    "too many held out": ({"validation_rows": 10_000}, {}, "validation_rows=10000: .* 10000 rows"),
    "nothing to validate on": ({"validation": None}, {}, "no validation rows"),
    "other columns": ({}, {"features": 3}, r"\[2\], the model takes \[3\]"),
}


@pytest.mark.parametrize(("data", "config", "message"), NO_DATA.values(), ids=NO_DATA)
def test_data_that_do_not_fit_are_refused(data, config, message, tmp_path):
    refused(tmp_path, message, DataError, data=data, config=config)
    assert not (tmp_path / "run").exists()


def test_a_constant_column_is_refused(tmp_path):
    file = tmp_path / "train.csv"
    file.write_text("a,b\n" + "1,2\n3,2\n" * 4)
    data = {"dataset": str(file), "validation_rows": 1}
    refused(tmp_path, r"columns \['b'\] are constant", data=data)
    refused(tmp_path, "at least two are needed", data={**data, "validation_rows": 7})


@pytest.mark.parametrize("split", ["train", "validation"])
def test_absurd_values_are_refused(split, tmp_path):
    folder = write_moons(tmp_path / "data")
    with (folder / f"{split}.csv").open("a") as file:
        file.write("\n0.5,1e30")
    message = rf"\({split}\): row 200, column 'b' .*accept_outliers=True"
    refused(tmp_path, message, DataError, data={"dataset": str(folder)})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", ["train", "validation"])
def test_rows_outside_of_bounds_are_refused_before_the_training(split, tmp_path):
    """Not by the step or the validation that meets them, which may come after hours."""
    folder = write_moons(tmp_path / "data")
    with (folder / f"{split}.csv").open("a") as file:
        file.write("\n0.5,70.0")
    config = {"columns": ["a", "b"], "bounds": {"b": [-60, 60]}}
    message = rf"\({split}\): column b is not within .* 201 rows .*row 200, 70"
    refused(tmp_path, message, data={"dataset": str(folder)}, config=config)
    assert not (tmp_path / "run").exists()


def test_contexts_without_names_are_refused(tmp_path):
    refused(tmp_path, "this model's contexts have no names", config={"context_features": 2})


def test_one_file_needs_rows_to_be_held_back(tmp_path):
    (tmp_path / "own.csv").write_text("a,b\n" + "1.5,2\n3,4\n" * 20)
    message = "no split 'validation', .*data.validation_rows"
    with pytest.raises(DataError, match=message):
        train(write_recipe(tmp_path), tmp_path / "run", data=str(tmp_path / "own.csv"))


def test_data_on_disk_take_the_place_of_a_toy(tmp_path):
    for split in ("train", "validation"):
        lines = ["a,b", *(f"{x},{y}" for x, y in open_toy("moons", 60, 0).rows(range(60)).tolist())]
        (tmp_path / f"{split}.csv").write_text("\n".join(lines))
    recipe = write_recipe(tmp_path / "recipe", data={"train_rows": 500})
    assert train(recipe, tmp_path / "run", data=str(tmp_path))["data_rows"] == 60
    recipe = write_recipe(recipe.parent, data={"train_rows": 500, "dataset": str(tmp_path)})
    with pytest.raises(DataError, match="train_rows is only for toys"):
        train(recipe, tmp_path / "other")


def test_a_batch_beyond_the_memory_says_what_needs_less(tmp_path, monkeypatch):
    def step(self: Trainer) -> dict[str, float]:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(Trainer, "step", step)
    refused(tmp_path, r"^not enough memory: a smaller training\.batch_size", MemoryError)
