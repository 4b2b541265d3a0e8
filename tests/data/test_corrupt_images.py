"""Images that cannot be decoded: named, and then the end of a run or left out, as asked."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nflows.transforms import ActNorm
from support.corrupt_images import BAD, GOOD, left_out, small
from support.image_sets import image_set, pictures
from support.runs import assert_same_run, log, train
from support.small_models import write_image_recipe, write_recipe

from impflow_zoo import ResFlow, evaluate
from impflow_zoo.data import DataError, ImageFormat, ImageSource, LeftOutWarning
from impflow_zoo.data import images as images_module
from impflow_zoo.evaluation.scoring import score
from impflow_zoo.models.fields import ModelError
from impflow_zoo.training import Trainer
from impflow_zoo.training.recipe import read_recipe
from impflow_zoo.training.run import open_splits

FORM = ImageFormat(3, (8, 8))


@pytest.fixture
def good(tmp_path: Path) -> str:
    return image_set(tmp_path / "good", GOOD)


@pytest.fixture
def bad(tmp_path: Path) -> str:
    """The same images, two of which cannot be decoded."""
    return image_set(tmp_path / "bad", [BAD.get(i, image) for i, image in enumerate(GOOD)])


# -------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("cache", [2**30, 0], ids=["kept", "decoded each time"])
def test_all_other_rows_keep_their_numbers(cache, good, bad, monkeypatch):
    monkeypatch.setattr(images_module, "_CACHE", cache)
    model = small()
    whole = score(model, ImageSource.open(good, None, FORM), seed=3, batch_size=1)
    with left_out(rows=2):
        source = ImageSource.open(bad, None, FORM, skip_corrupt=True)
        some = score(model, source, seed=3, batch_size=1)
        together = score(model, source, seed=3, batch_size=3)
    kept = [0, 1, 3, 5, 6]
    assert torch.equal(some.log_prob, whole.log_prob[kept])
    assert torch.equal(some.figures["variance"], whole.figures["variance"][kept])
    torch.testing.assert_close(together.log_prob, some.log_prob, rtol=1e-12, atol=0)
    assert (some.skipped, together.skipped, whole.skipped) == (2, 2, 0)


def test_the_result_counts_what_it_left_out(good, bad):
    model = small()
    with left_out(rows=2):
        result = evaluate(model, bad, skip_corrupt=True)
    assert (result.n, result.skipped) == (5, 2)
    assert result.to_dict()["skipped"] == 2
    assert "5 rows, 2 left out" in result.report("mine")
    whole = evaluate(model, good, skip_corrupt=True)  # a warning would be an error here
    assert (whole.n, whole.skipped) == (7, 0)
    assert "left out" not in whole.report("mine")


def test_a_limit_counts_what_is_left_out(bad):
    with left_out(rows=1):
        result = evaluate(small(), bad, limit=4, skip_corrupt=True)
    assert (result.n, result.skipped) == (3, 1)


def test_the_first_corrupt_image_ends_an_evaluation_unless_asked_otherwise(bad):
    with pytest.raises(
        DataError,
        match=r"\(test\): cannot decode .* row 2: cannot identify .*corrupt",
    ):
        evaluate(small(), bad)


def test_a_set_of_nothing_else_is_refused(tmp_path):
    nothing = image_set(tmp_path, [BAD[2]] * 3)
    with (
        pytest.warns(LeftOutWarning),
        pytest.raises(DataError, match="none of 3 rows can be read"),
    ):
        evaluate(small(), nothing, batch_size=2, skip_corrupt=True)


def test_an_image_that_does_not_fit_is_no_corrupt_one(tmp_path):
    mixed = image_set(tmp_path, [*GOOD[:2], *pictures(1, (9, 8, 3))])
    with pytest.raises(DataError, match="row 2 is 9x8, .*takes 8x8"):
        evaluate(small(), mixed, skip_corrupt=True)


def test_rows_asked_for_one_by_one_are_never_left_out(bad):
    with left_out(rows=1):
        source = ImageSource.open(bad, None, FORM, skip_corrupt=True)
        with pytest.raises(DataError, match="1 of these rows cannot be read"):
            source.rows([1, 2])
    assert source.rows([1, 3]).shape == (2, 3, 8, 8)


def test_a_part_of_a_set_has_numbers_of_its_own(bad):
    with left_out(rows=2):
        source = ImageSource.open(bad, None, FORM, skip_corrupt=True)
        (part,) = source.part(range(1, 7)).batches(10)
    assert part.index.tolist() == [0, 2, 4, 5]
    assert part.left_out == 2
    assert np.array_equal(part.rows[1].permute(1, 2, 0).numpy(), GOOD[3])


def test_tables_have_no_images_to_leave_out():
    with pytest.raises(DataError, match="toy:moons: skip_corrupt does not apply"):
        evaluate("impflow-checkerboard", "toy:moons", skip_corrupt=True)


@pytest.mark.filterwarnings("always")
def test_the_command_line_names_each_row_and_goes_on(bad, run, tmp_path):
    small().save_pretrained(tmp_path / "model")
    ended = run("evaluate", tmp_path / "model", "--dataset", bad, "--skip-corrupt", "--json")
    assert (ended.json["n"], ended.json["skipped"]) == (5, 2)
    named = [line.strip() for line in ended.err.splitlines() if "impflow-zoo: " in line]
    assert len(named) == 2
    for line, row in zip(named, BAD, strict=True):
        assert f"cannot decode the image of row {row}: " in line
        assert line.endswith("; left out")


# ---------------------------------------------------------------------------------- training


def trainer(folder: Path, dataset: str, **data: Any) -> Trainer:
    made = read_recipe(write_image_recipe(folder, dataset, data=data))
    model = ResFlow(made.config)
    return Trainer(model, made.training, *open_splits(made, None), folder / "run", progress=False)


def test_the_images_beside_a_corrupt_one_are_drawn_as_ever(good, bad, tmp_path):
    whole = trainer(tmp_path / "a", good)
    with left_out(rows=2):
        some = trainer(tmp_path / "b", bad, corrupt="skip")
        for step in range(4):  # two passes of two batches, of the first five images
            drawn = whole.batches.indices(step)
            kept = torch.tensor([int(row) not in BAD for row in drawn])
            assert torch.equal(some.batch(step, None), whole.batch(step, None)[kept])
            halves = [some.batch(step, range(i, i + 1)) for i in range(2)]
            assert torch.equal(torch.cat(halves), some.batch(step, None))


def silent(call: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeftOutWarning)
        return call()


def test_a_run_counts_what_it_leaves_out_and_resumes_exactly(bad, tmp_path):
    path = write_image_recipe(tmp_path / "recipe", bad, data={"corrupt": "skip"})
    whole = silent(lambda: train(path, tmp_path / "whole"))
    lines = [line for line in log(tmp_path / "whole") if "left_out" in line]
    counts = [line["left_out"] for line in lines]
    assert counts == sorted(counts)
    assert counts[-1] == whole["left_out"] > 0
    drawn = [line["rows_seen"] for line in lines]
    assert drawn == [2 * (i + 1) - count for i, count in enumerate(counts)]
    silent(lambda: train(path, tmp_path / "cut", max_minutes=0.0))
    state = silent(lambda: train(path, tmp_path / "cut", resume=True))
    assert state["left_out"] == whole["left_out"]
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def test_a_corrupt_image_ends_a_run_unless_asked_otherwise(bad, tmp_path):
    path = write_image_recipe(tmp_path / "recipe", bad)
    with pytest.raises(DataError, match=r"cannot decode .* row [24]: .*data\.corrupt"):
        train(path, tmp_path / "run")


def test_a_batch_of_corrupt_images_alone_is_a_step_not_taken(tmp_path):
    """Nor do layers that start from data start from nothing."""
    mixed = image_set(tmp_path / "mixed", [*[BAD[2]] * 3, GOOD[0], *GOOD[:2]])
    run = silent(lambda: trainer(tmp_path, mixed, corrupt="skip"))
    drawn = [run.batches.indices(step).tolist() for step in range(8)]
    empty = next(step for step, rows in enumerate(drawn) if 3 not in rows)
    silent(run.prepare)
    for layer in run.model.modules():
        if isinstance(layer, ActNorm):
            assert bool(layer.initialized)
            assert bool(layer.log_scale.isfinite().all())
    before = [p.detach().clone() for p in run.model.parameters()]
    run.state["step"] = empty
    figures = silent(run.step)
    assert math.isnan(figures["log_density"])
    assert (run.state["skipped"], run.state["left_out"], run.state["rows"]) == (1, 2, 0)
    assert all(torch.equal(p, q) for p, q in zip(run.model.parameters(), before, strict=True))


def test_a_run_on_corrupt_images_alone_is_refused(tmp_path):
    path = write_image_recipe(
        tmp_path, image_set(tmp_path / "set", [BAD[2]] * 6), data={"corrupt": "skip"}
    )
    with pytest.raises(DataError, match="none of its rows can be read"):
        silent(lambda: train(path, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_recipes_say_what_is_to_be_done(good, tmp_path):
    assert read_recipe(write_image_recipe(tmp_path, good)).data.corrupt == "stop"
    with pytest.raises(ModelError, match="unknown corrupt 'drop'"):
        read_recipe(write_image_recipe(tmp_path, good, data={"corrupt": "drop"}))
    with pytest.raises(ModelError, match="corrupt='skip' is for images"):
        read_recipe(write_recipe(tmp_path, data={"corrupt": "skip"}))
