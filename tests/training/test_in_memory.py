"""Training on tables in memory."""

from __future__ import annotations

import pandas
import pytest
import torch
from support.small_models import write_recipe

from impflow_zoo import create_model, evaluate, train
from impflow_zoo.data import DataError, open_toy
from impflow_zoo.models.fields import ModelError

ROWS = open_toy("moons", 200).rows(range(200))
FRAME = pandas.DataFrame(ROWS.numpy(), columns=["x", "y"])


@pytest.mark.parametrize("data", [FRAME, ROWS.numpy(), ROWS], ids=["frame", "array", "tensor"])
def test_rows_in_memory_are_those_of_a_file(tmp_path, data):
    recipe = write_recipe(tmp_path / "recipe", data={"dataset": None, "validation_rows": 50})
    FRAME.to_csv(tmp_path / "own.csv", index=False)
    state = train(recipe, data=data, out=tmp_path / "run", progress=False)
    of_file = train(recipe, data=tmp_path / "own.csv", out=tmp_path / "file", progress=False)
    assert state["best"] == of_file["best"]
    named = ("x", "y") if isinstance(data, pandas.DataFrame) else ()
    assert create_model(tmp_path / "run").config.columns == named


def test_columns_of_a_frame_may_be_numbers(tmp_path):
    """As `read_csv(header=None)` names them; a file with such names lacks its header."""
    recipe = write_recipe(tmp_path / "recipe", data={"dataset": None, "validation_rows": 50})
    frame = FRAME.set_axis([1, 3], axis=1)
    state = train(recipe, data=frame, out=tmp_path / "run", progress=False)
    assert state["best"] is not None
    assert create_model(tmp_path / "run").columns == ("1", "3")
    assert evaluate(tmp_path / "run", frame).n == len(frame)


def test_training_leaves_the_random_numbers_of_the_caller_alone(tmp_path):
    recipe = write_recipe(tmp_path / "recipe")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(recipe, out=tmp_path / "run", progress=False)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_records_gradients_where_the_caller_does_not(tmp_path, mode):
    """As in a notebook that has turned them off for all of its cells."""
    recipe = write_recipe(tmp_path / "recipe", data={"dataset": None, "validation_rows": 50})
    state = train(recipe, data=FRAME, out=tmp_path / "run", progress=False)
    with mode():
        found = train(recipe, data=FRAME, out=tmp_path / "other", progress=False)
        assert not torch.is_grad_enabled()
    assert found["best"] == state["best"]


@pytest.mark.parametrize(
    ("data", "held_out", "message"),
    [
        (FRAME, None, "no splits: set data.validation_rows"),
        ([[1, 2]], 1, "data of type list: a Hub id, .* Dataset"),
    ],
)
def test_mistakes_are_named(tmp_path, data, held_out, message):
    recipe = write_recipe(tmp_path, data={"dataset": None, "validation_rows": held_out})
    with pytest.raises(DataError, match=message):
        train(recipe, data=data, out=tmp_path / "run", progress=False)


@pytest.mark.parametrize("minutes", [-1, float("nan"), "5"])
def test_minutes_that_are_none_are_named(tmp_path, minutes):
    with pytest.raises(ModelError, match="max_minutes=.*: .*at least 0"):
        train(write_recipe(tmp_path), out=tmp_path / "run", max_minutes=minutes)
