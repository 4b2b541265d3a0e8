"""Training on rows with weights: what a step and a validation see of them."""

from __future__ import annotations

import numpy
import pandas
import pytest
import torch
from support.small_models import make, rows, write_recipe

from impflow_zoo import create_model, evaluate, training
from impflow_zoo.data import DataError, open_table, open_toy
from impflow_zoo.evaluation.processes import Processes
from impflow_zoo.models.fields import ConfigError, ModelError
from impflow_zoo.training.batches import Batches
from impflow_zoo.training.optimisation import Optimisation
from impflow_zoo.training.recipe import TrainingSettings, read_recipe

FRAME = pandas.DataFrame(rows(12).numpy(), columns=["a", "b"])
COUNTS = numpy.arange(12) % 3


def stepped(frame: pandas.DataFrame, weights: str | None) -> dict[str, float]:
    """Figures of a step of one model on a batch of all rows."""
    source = open_table(frame, columns=["a", "b"], weights=weights)
    batches = Batches(source, 1000, flip=False, seed=0)
    torch.manual_seed(0)
    optimisation = Optimisation(make(), TrainingSettings(), Processes())
    x, part = batches.of(0)[0], range(batches.size)
    return optimisation.step(0, x, len(x), batches.weights(0, part))


def test_a_row_of_weight_two_is_the_row_twice_and_one_of_weight_zero_is_none():
    weighted = stepped(FRAME.assign(w=COUNTS), "w")
    repeated = stepped(FRAME.loc[FRAME.index.repeat(COUNTS)], None)
    assert weighted["log_density"] == pytest.approx(repeated["log_density"], rel=1e-9)
    assert weighted["gradient_norm"] == pytest.approx(repeated["gradient_norm"], rel=1e-6)


def test_batches_weigh_one_in_the_mean():
    source = open_table(FRAME.assign(w=COUNTS), weights="w")
    batches = Batches(source, 4, flip=False, seed=0)
    parts = [batches.weights(step, range(4)) for step in range(len(batches))]
    assert float(torch.cat(parts).mean()) == pytest.approx(1)
    index = batches.indices(1)
    torch.testing.assert_close(parts[1], (source.weights / source.weights.mean())[index])
    assert Batches(open_table(FRAME), 4, flip=False, seed=0).weights(0, range(4)) is None


def test_standardisation_is_weighted():
    model, x = make(), rows(50)
    counts = torch.arange(50) % 3
    model.fit_preprocessing(x, weights=counts.double())
    first = model.preprocessing.spread(model.transform)
    model.fit_preprocessing(x.repeat_interleave(counts, dim=0))
    torch.testing.assert_close(
        first, model.preprocessing.spread(model.transform), rtol=0.02, atol=0
    )


@pytest.mark.parametrize("kind", [numpy.asarray, list, pandas.Series])
def test_weights_of_a_standardisation_may_be_an_array(kind):
    model, x, weights = make(), rows(50), torch.rand(50)
    spreads = []
    for given in (weights, kind(weights.numpy())):
        model.fit_preprocessing(x, weights=given)
        spreads.append(model.preprocessing.spread(model.transform))
    torch.testing.assert_close(*spreads)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.tensor([1.0, -1.0, 1.0]), "finite numbers of at least 0"),
        (torch.tensor([1.0, torch.nan, 1.0]), "finite numbers of at least 0"),
        (torch.zeros(3), "not all of them zero"),
        (torch.ones(2), r"weights of shape \(2,\): \[3\] is needed"),
        (torch.ones(3, 1), r"weights of shape \(3, 1\): \[3\]"),
    ],
    ids=["negative", "NaN", "zeros", "too-few", "a-column"],
)
def test_weights_of_a_standardisation_that_are_none_are_named(weights, message):
    with pytest.raises(ModelError, match=message):
        make().fit_preprocessing(rows(3), weights=weights)


@pytest.fixture
def weighted_run(tmp_path):
    """A run on moons, the right half of which counts nothing."""
    x = open_toy("moons", 300).rows(range(300)).numpy()
    frame = pandas.DataFrame(x, columns=["a", "b"])
    frame["w"] = numpy.where(frame["a"] < 0.5, 2.0, 0.0)
    frame.to_csv(tmp_path / "own.csv", index=False)
    data = {"dataset": None, "weights": "w", "validation_rows": 50}
    recipe = write_recipe(tmp_path / "recipe", data=data)
    state = training.train(recipe, data=tmp_path / "own.csv", out=tmp_path / "run", progress=False)
    return frame, recipe, tmp_path / "run", state


def test_a_recipe_names_the_column_of_weights(weighted_run, tmp_path):
    frame, recipe, out, state = weighted_run
    model = create_model(out)
    assert model.config.columns == ("a", "b")
    kept = frame[frame["w"] > 0]
    assert state["data_rows"] == len(kept) - 50
    held_out = kept[-50:]
    found = evaluate(model, held_out)
    assert (found.weights, found.n) == ("w", 50)
    assert state["best"] == pytest.approx(found.value, rel=1e-6)
    with pytest.raises(DataError, match='names it: weights="" counts all rows alike'):
        evaluate(model, held_out.drop(columns="w"))
    assert evaluate(model, held_out.drop(columns="w"), weights="").row_weights is None
    other = tmp_path / "other.csv"
    frame.assign(w=frame["w"] * (1 + (frame["b"] > 0))).to_csv(other, index=False)
    with pytest.raises(Exception, match="was trained on other rows"):
        training.train(recipe, data=other, out=out, resume=True, progress=False)


def test_images_have_no_weights(tmp_path):
    from support.small_models import write_image_recipe

    recipe = write_image_recipe(tmp_path, "a set", data={"weights": "w"})
    with pytest.raises(ConfigError, match="data.weights is for tables"):
        read_recipe(recipe)
