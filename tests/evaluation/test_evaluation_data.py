"""Which rows a model is scored on, and what is refused."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pandas
import pytest
import torch
from PIL import Image
from support.image_models import make as make_images
from support.small_models import MEAN, STD, make, write_recipe

from impflow_zoo import LogDet, NumericalWarning, create_model, evaluate
from impflow_zoo.data import DataError, TableSource, open_source
from impflow_zoo.evaluation.entries import Entry, card_entry, results_text
from impflow_zoo.evaluation.rows import scored_split
from impflow_zoo.models.fields import ConfigError, ModelError
from impflow_zoo.models.filenames import RESULTS
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.folder import ModelFolder
from impflow_zoo.zoo.record import Record

MOONS = {"dataset": "toy:moons", "split": "test"}


KNOWN = Entry(
    data="made-up",
    split="test",
    metric="log_likelihood",
    value=-2.5,
    stderr=0.1,
    estimator_stderr=0.0,
    n=10_000,
    seed=0,
    logdet="exact",
    round_trip=1e-6,
)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A model with a recipe on moons that was scored at -2.5."""
    make().save_pretrained(tmp_path / "flow")
    write_recipe(tmp_path / "flow")
    (tmp_path / "flow" / RESULTS).write_text(results_text([KNOWN]))
    return tmp_path / "flow"


def test_a_score_of_other_weights_is_not_on_the_card(folder):
    entry = replace(KNOWN, sha256=ModelFolder(folder).config().sha256)
    (folder / RESULTS).write_text(results_text([entry]))
    assert card_entry(ModelFolder(folder)) == entry
    make(seed=1).save_pretrained(folder)
    assert card_entry(ModelFolder(folder)) is None


SPLITS = {
    "the recipe's": ({}, "toy:moons", "test"),
    "the recipe's, by name": ({"dataset": "toy:moons", "split": "test"}, "toy:moons", "test"),
    "another split": ({"split": "train"}, "toy:moons", "train"),
    "another split, by name": ({**MOONS, "split": "train"}, "toy:moons", "train"),
    "other data": ({"dataset": "toy:rings"}, "toy:rings", None),
}


@pytest.mark.parametrize(("asked", "dataset", "split"), SPLITS.values(), ids=SPLITS)
def test_the_rows_are_those_asked_for(asked, dataset, split, folder):
    result = evaluate(folder, **asked, limit=5)
    assert (result.dataset, result.split) == (dataset, split)
    source = open_source(dataset, split).rows(range(5))
    expected = FlowModel.from_pretrained(folder).log_prob(source).detach().mean()
    assert result.value == pytest.approx(float(expected))


ROWS = {
    "those of the recipe": ({}, True),
    "those of the recipe, by name": (MOONS, True),
    "another split": ({"split": "train"}, False),
    "another set": ({"dataset": "toy:rings", "split": "test"}, False),
    "another revision": ({"dataset": "toy:moons", "revision": "abc"}, False),
    "a file": ({"dataset": "test.csv"}, False),
    "a file, its split": ({"dataset": "test.csv", "split": "test"}, False),
}


@pytest.mark.parametrize(("asked", "own"), ROWS.values(), ids=ROWS)
def test_the_card_is_about_its_own_rows_alone(asked, own, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table(tmp_path / "test.csv")
    model = FlowModel.from_pretrained(folder)
    where = scored_split(model, **{"dataset": None, "split": None, **asked})
    assert (where.published is not None) == own


def test_the_card_is_about_one_revision_of_its_data(folder):
    write_recipe(folder, data={"dataset": "owner/data", "revision": "abc"})
    model = FlowModel.from_pretrained(folder)
    assert scored_split(model, None, None).published is not None
    assert scored_split(model, "owner/data", "test", "abc").published is not None
    assert scored_split(model, "owner/data", "test").published is None
    assert scored_split(model, None, None, "def").published is None


def test_the_card_s_number_stands_beside_all_of_its_rows_alone(folder):
    (folder / RESULTS).write_text(results_text([replace(KNOWN, n=5)]))
    part, whole = evaluate(folder, limit=4), evaluate(folder, limit=5)
    assert (part.published, whole.published) == (None, -2.5)
    assert "on the card" not in part.report("flow")
    assert "on the card          -2.5000 nats (5 rows of made-up)" in whole.report("flow")
    (folder / RESULTS).write_text(results_text([replace(KNOWN, n=5, metric="bits")]))
    assert evaluate(folder, limit=5).published is None  # of another model, it seems


def test_rows_without_a_density_are_named(folder, tmp_path):
    (tmp_path / "far.csv").write_text("a,b\n3,3\n1e200,3\n3,3\n")
    with (
        pytest.warns(NumericalWarning, match="off by up to"),
        pytest.warns(NumericalWarning, match="far.csv.* no finite log-density in row 1"),
    ):
        assert evaluate(folder, str(tmp_path / "far.csv")).value == -math.inf


def table(path: Path, n: int = 4, columns: str = "ab", value: float = MEAN) -> Path:
    """A CSV file; pyarrow would read parquet as well."""
    rows = [[value + STD * math.sin(i + j) for j in range(len(columns))] for i in range(n)]
    lines = [",".join(columns), *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_split_that_ships_with_a_model_is_scored_whole(folder, tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = {"a": [3.0, 2.5, 3.5], "b": [3.0, 3.5, 2.5]}
    pyarrow.parquet.write_table(pyarrow.table(rows), folder / "test.parquet")
    (folder / RESULTS).write_text(results_text([replace(KNOWN, n=3)]))
    result = evaluate(folder)
    assert (result.n, result.published) == (3, -2.5)
    assert result.dataset == str(folder / "test.parquet")
    assert evaluate(folder, folder / "test.parquet").published == -2.5
    copy = shutil.copy(folder / "test.parquet", tmp_path / "other.parquet")
    assert evaluate(folder, copy).published is None
    write_recipe(folder, data={"dataset": None})
    with pytest.raises(ModelError, match="no data to evaluate on: .*only .* 'test' ships"):
        evaluate(folder, split="train")


def test_a_damaged_recipe_matters_only_where_it_names_the_data(folder, tmp_path):
    (folder / "recipe.yaml").write_text("model: ImpFlow\ndata: {datset: x}\n")
    result = evaluate(folder, str(table(tmp_path / "test.csv")))
    assert (result.n, result.published) == (4, None)
    with pytest.raises(ConfigError, match="unknown config key 'data.datset'"):
        evaluate(folder)


def test_a_recipe_that_names_no_data_asks_for_them(folder):
    named = {"data_name": "Bills", "data_url": "https://bills.example"}
    write_recipe(folder, data={"dataset": None, "test": "later"}, card=named)
    wanted = "Get Bills https://bills.example, then add --dataset FOLDER --split later"
    with pytest.raises(ModelError, match=wanted):
        evaluate(folder)


def test_the_recipe_s_revision_of_the_data_is_taken(folder, monkeypatch):
    write_recipe(folder, data={"dataset": "owner/data", "revision": "abc"})
    asked = []

    def opened(dataset: str, split: str | None, **options: Any) -> TableSource:
        asked.append((dataset, split, options["revision"]))
        return TableSource(dataset, torch.full((3, 2), MEAN, dtype=torch.float64), "ab")

    monkeypatch.setattr("impflow_zoo.models.rows.open_source", opened)
    assert evaluate(folder).revision == "abc"
    evaluate(folder, revision="def")
    evaluate(folder, "owner/other", "test")
    assert asked == [
        ("owner/data", "test", "abc"),
        ("owner/data", "test", "def"),
        ("owner/other", "test", None),
    ]


def test_a_revision_is_of_data_on_the_hub_alone(folder, tmp_path):
    rows = table(tmp_path / "test.csv")
    with pytest.raises(ModelError, match="is on disk and has no revisions"):
        evaluate(folder, str(rows), revision="abc")
    with pytest.raises(ModelError, match="only the split .* in one revision"):
        evaluate(create_model("impflow-power-plant"), revision="abc")


@pytest.mark.parametrize("content", ["", "[{", "{}", '[{"value": "high"}]'])
def test_damaged_results_stop_no_evaluation(content, folder):
    (folder / RESULTS).write_text(content)
    assert evaluate(folder, limit=5).published is None
    with pytest.raises(ModelError, match=r"results.json is damaged \(.*\)"):
        _ = Record(ModelFolder.open(folder)).entries


BAD = {
    "unknown toy": ({"dataset": "toy:square"}, DataError, "unknown toy 'square', choose one of"),
    "unknown kind": ({"dataset": "toys:moons"}, DataError, "toys:moons: unknown kind of data"),
    "unknown split": ({**MOONS, "split": "dev"}, DataError, "no split 'dev', choose one of: train"),
    "no such file": ({"dataset": "./none.csv"}, DataError, "no such file or folder"),
    "no data": ({}, ModelError, "no data to evaluate on"),
    "no rows": ({**MOONS, "limit": 0}, ModelError, "limit=0: at least one row"),
    "no batch": ({**MOONS, "batch_size": 0}, ModelError, "batch_size=0: at least one row"),
}


@pytest.mark.parametrize(("asked", "error", "message"), BAD.values(), ids=BAD)
def test_mistakes_about_data_are_named(asked, error, message):
    with pytest.raises(error, match=message):
        evaluate(make(), **asked)


def test_rows_of_another_size_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"rows of shape \[3\], .*\[2\]"):
        evaluate(make(), str(table(tmp_path / "test.csv", columns="abc")))


def test_columns_are_found_by_name(tmp_path):
    model = make(columns=("b", "a"))
    file = table(tmp_path / "test.csv")
    rows = open_source(str(file), columns=("b", "a")).rows(range(4))
    expected = float(model.log_prob(rows).detach().mean())
    assert evaluate(model, str(file)).value == pytest.approx(expected)
    with pytest.raises(DataError, match="no column c, only a, b"):
        evaluate(make(columns=("a", "c")), str(file))


def test_missing_values_are_refused(tmp_path):
    (tmp_path / "test.csv").write_text("a,b\n1.5,2.5\n1.5,\n")
    with pytest.raises(DataError, match="row 1, column 'b' is nan"):
        evaluate(make(), str(tmp_path / "test.csv"))


def test_an_unknown_model_is_refused():
    with pytest.raises(ModelError, match="no model 'impflow-powerplant'.*impflow-power-plant"):
        evaluate("impflow-powerplant")


def test_data_may_be_named_by_a_path(folder, tmp_path):
    path = table(tmp_path / "own.csv")
    assert evaluate(folder, path).value == evaluate(folder, str(path)).value
    with pytest.raises(DataError, match="data of type list: a Hub id"):
        evaluate(folder, [[0.0, 1.0]])


def test_rows_in_memory_score_as_in_a_file(tmp_path):
    model, path = make(columns=("a", "b")), table(tmp_path / "own.csv")
    frame = pandas.read_csv(path)
    frame = frame.assign(word="x")[["word", *reversed(frame.columns)]]
    rows = frame[["a", "b"]].to_numpy()
    values = [evaluate(model, data).value for data in (path, frame, rows, torch.from_numpy(rows))]
    assert len(set(values)) == 1
    with pytest.raises(DataError, match="the data: no column b, only a"):
        evaluate(model, frame[["a"]])
    with pytest.raises(DataError, match="an array of 1 columns: 2 .* a, b"):
        evaluate(model, rows[:, :1])


def test_modes_of_modules_are_as_they_were(folder):
    model = FlowModel.from_pretrained(folder).train()
    block = next(model.blocks()).eval()
    evaluate(model, "toy:moons", limit=5)
    assert model.training
    assert not block.training


def test_a_folder_of_the_name_of_a_set_is_not_that_set(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = FlowModel.from_pretrained(folder)
    assert scored_split(model, "toy:moons", "test").published is not None
    (tmp_path / "toy:moons").mkdir()
    assert scored_split(model, "toy:moons", "test").published is None
    assert scored_split(model, None, None).published is None


@pytest.mark.parametrize("series", ["solve", "roulette"])
def test_fresh_probes_of_an_evaluation_follow_from_its_seed(series, folder):
    model = FlowModel.from_pretrained(folder, logdet=LogDet("unbiased", series))
    values = [
        evaluate(model, "toy:moons", limit=20, seed=s, batch_size=b).value
        for s, b in ((0, 20), (0, 20), (0, 7), (1, 20))
    ]
    assert values[0] == values[1] == pytest.approx(values[2], rel=1e-9)
    assert values[0] != pytest.approx(values[3], rel=1e-6)


def test_the_data_of_the_recipe_is_scored_on_its_test_split(tmp_path):
    make().save_pretrained(tmp_path)
    write_recipe(tmp_path, data={"dataset": "toy:moons", "test": "validation"})
    named, asked = evaluate(tmp_path, "toy:moons", limit=20), evaluate(tmp_path, limit=20)
    assert named.split == asked.split == "validation"
    assert named.value == asked.value
    assert evaluate(tmp_path, "toy:circles", limit=20).split is None


def test_a_set_in_memory_is_scored_as_its_rows_are():
    frame = pandas.DataFrame({"y": [0.0, 0.5], "note": ["a", "b"], "x": [1.0, -0.5]})
    model = make(columns=("x", "y"))
    for rows in (datasets.Dataset.from_pandas(frame), datasets.Dataset.from_pandas(frame[::-1])):
        assert evaluate(model, rows.with_format("torch")).value == evaluate(model, frame).value
    with pytest.raises(DataError, match="data of type DatasetDict: .* one split"):
        evaluate(model, datasets.DatasetDict({"test": rows}))
    of_split = evaluate(model, datasets.DatasetDict({"test": rows}), "test")
    assert (of_split.value, of_split.split) == (evaluate(model, rows).value, "test")


def images_in_memory(*cells, label=0):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    rows = {"image": list(cells), "label": [label] * len(cells)}
    return datasets.Dataset.from_dict(rows, features=features)


def test_images_in_memory_are_scored_as_files_are(tmp_path):
    pixels = torch.arange(32, dtype=torch.uint8).view(2, 4, 4)
    rows = images_in_memory(*(Image.fromarray(image.numpy()) for image in pixels))
    rows.to_parquet(tmp_path / "test.parquet")
    model = make_images(channels=1).float().eval()
    assert evaluate(model, rows).value == evaluate(model, tmp_path).value


FORMATS = {
    "transform": lambda rows: rows.with_transform(lambda some: {"pixels": some["label"]}),
    "pandas": lambda rows: rows.with_format("pandas"),
    "tensors of some columns": lambda rows: rows.with_format("torch", columns=["label"]),
    "tensors": lambda rows: rows.with_format("torch"),
}


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_the_format_of_a_set_in_memory_changes_nothing(form):
    """As a training loop elsewhere has set it."""
    rows = images_in_memory(*(Image.new("L", (4, 4), shade) for shade in (0, 90)), label=1)
    labelled = {"context_columns": ("label",), "classes": 2}
    model = make_images(channels=1, **labelled).float().eval()
    assert evaluate(model, form(rows)).value == evaluate(model, rows).value


def test_damaged_images_in_memory_are_left_out_on_request():
    model, damaged = make_images(channels=1).float().eval(), {"bytes": b"no image", "path": None}
    rows = images_in_memory(Image.new("L", (4, 4)), damaged)
    with pytest.raises(DataError, match="cannot decode the image of row 1"):
        evaluate(model, rows)
    with pytest.warns(UserWarning, match="row 1.*left out"):
        found = evaluate(model, rows, skip_corrupt=True)
    assert (found.n, found.skipped) == (1, 1)
