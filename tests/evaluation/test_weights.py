"""Scores of rows with weights: a row of weight 2 is the row twice, one of weight 0 is none."""

from __future__ import annotations

import json

import numpy
import pandas
import pytest
import torch
from support.small_models import make, rows

from impflow_zoo import ImageConfig, LogDet, ResFlow, evaluate
from impflow_zoo.data import DataError
from impflow_zoo.evaluation.baselines import mixture
from impflow_zoo.evaluation.entries import Entry
from impflow_zoo.evaluation.standard_errors import standard_error, weighted_mean

FRAME = pandas.DataFrame(rows(40).numpy(), columns=["a", "b"])
COUNTS = numpy.arange(40) % 3
REPEATED = FRAME.loc[FRAME.index.repeat(COUNTS)]
WEIGHTED = FRAME.assign(w=COUNTS)


def test_whole_weights_repeat_rows():
    model = make()
    found, repeated = evaluate(model, WEIGHTED, weights="w"), evaluate(model, REPEATED)
    assert found.value == pytest.approx(repeated.value, rel=1e-12)
    assert found.gaussian == pytest.approx(repeated.gaussian, rel=1e-9)
    assert found.n == int((COUNTS > 0).sum()) == len(found.per_row)
    assert found.row_weights.tolist() == COUNTS[COUNTS > 0].tolist()


def test_a_row_of_weight_zero_is_as_if_it_were_not_there():
    """Also where rows have noise, which depends on their number."""
    model = make(columns=("a", "b"), rounding=(0.5, 0.5))
    zero = FRAME.assign(w=(COUNTS != 1).astype(float))
    found, removed = evaluate(model, zero, weights="w"), evaluate(model, FRAME[COUNTS != 1])
    assert found.value == pytest.approx(removed.value, rel=1e-12)
    assert found.stderr == pytest.approx(removed.stderr, rel=1e-12)
    assert (found.n, found.gaussian) == (removed.n, pytest.approx(removed.gaussian))


def test_predictions_are_weighted():
    model = make(features=1, columns=("a",), context_columns=("b",))
    plain, found = evaluate(model, FRAME), evaluate(model, FRAME.assign(w=2.0), weights="w")
    assert found.predictive == plain.predictive
    heavy = FRAME.assign(w=numpy.where(FRAME["a"] > FRAME["a"].median(), 1.0, 1e-9))
    part = evaluate(model, heavy, weights="w").predictive[0]
    assert part.rmse != plain.predictive[0].rmse


def test_the_error_is_that_of_a_weighted_mean():
    """By hand: residuals of weights 1, 3 from the mean 2.5, in two groups."""
    values, weights = torch.tensor([1.0, 3.0]), torch.tensor([1.0, 3.0])
    assert float(weighted_mean(values, weights)) == 2.5
    expected = (2 * ((1 * 1.5) ** 2 + (3 * 0.5) ** 2)) ** 0.5 / 4
    assert float(standard_error(values, None, weights)) == pytest.approx(expected)
    alike = torch.full((9,), 0.3)
    x, groups = torch.randn(9), torch.arange(9) % 4
    for some in (None, groups):
        assert float(standard_error(x, some, alike)) == pytest.approx(
            float(standard_error(x, some))
        )


@pytest.mark.parametrize("grouped", [False, True])
def test_weighted_intervals_hold_the_true_mean(grouped):
    """95 % of intervals; weights vary, and groups of five rows share a part."""
    runs, n = 2000, 400
    weights = torch.rand(n, dtype=torch.float64) ** 2 + 0.1
    groups = torch.arange(n) // 5 if grouped else None
    x = torch.randn(runs, n, dtype=torch.float64)
    if grouped:
        x += torch.randn(runs, n // 5, dtype=torch.float64).repeat_interleave(5, dim=1)
    held = weighted_mean(x, weights).abs() < 1.97 * standard_error(x, groups, weights)
    assert 0.925 < float(held.double().mean()) < 0.975


@torch.no_grad()
@pytest.mark.parametrize("n_probes", [1, 2])
def test_the_estimator_error_is_that_of_a_weighted_mean(n_probes):
    """A row counts by the square of its weight. Far out slopes vanish, and estimates are exact."""
    logdet = LogDet("truncated", n_terms=8, n_probes=n_probes)
    model = make(ResFlow, features=8, activation="tanh", logdet=logdet)
    inputs = torch.cat([0.1 * rows(10, 8), 1e3 * rows(90, 8)])
    frame = pandas.DataFrame(inputs.numpy(), columns=list(model.columns))
    frame["w"] = numpy.where(numpy.arange(100) < 10, 100.0, 1.0)
    results = [evaluate(model, frame, weights="w", seed=seed) for seed in range(40)]
    spread = numpy.std([result.value for result in results], ddof=1)
    stated = numpy.mean([result.estimator_stderr for result in results])
    assert stated == pytest.approx(spread, rel=0.35)


def test_the_report_and_the_json_speak_of_weights():
    found = evaluate(make(), WEIGHTED, weights="w")
    assert found.effective_n == pytest.approx(COUNTS.sum() ** 2 / (COUNTS**2).sum())
    report = found.report("mine")
    assert "the weights are in column 'w'" in report
    stated = json.loads(json.dumps(found.to_dict()))
    assert (stated["weights"], stated["effective_n"]) == ("w", found.effective_n)
    assert "row_weights" not in stated
    assert Entry.of(found, "own", "test", None).effective_n == round(found.effective_n, 1)
    assert "weight" not in evaluate(make(), FRAME).report("mine")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("v", "no column 'v' for the weights"),
        (COUNTS, "weights of type ndarray: .*name"),
    ],
    ids=["no-such-column", "an-array"],
)
def test_weights_that_are_no_column_are_named(weights, message):
    with pytest.raises(DataError, match=message):
        evaluate(make(), WEIGHTED, weights=weights)


def test_images_have_no_weights_as_a_stream_either():
    model = ResFlow(ImageConfig(channels=1, image_size=(4, 4), blocks=(1,), width=2))
    with pytest.raises(DataError, match="own/images: weights does not apply"):
        evaluate(model, "own/images", "test", streaming=True, weights="w")


def test_a_mixture_is_drawn_to_heavy_rows():
    pytest.importorskip("sklearn")
    random = numpy.random.default_rng(0)
    x = numpy.concatenate([random.normal(0, 1, (300, 1)), random.normal(9, 1, (300, 1))])
    weights = numpy.repeat([1.0, 0.0], 300)
    found = mixture(x, x, 1, 0, (weights, weights))
    assert found.log_prob(numpy.zeros((1, 1))) > found.log_prob(numpy.full((1, 1), 9.0)) + 5


def test_there_is_no_mixture_where_the_rows_that_count_are_alike():
    x = numpy.random.default_rng(0).normal(size=(200, 2))
    x[:100, 1] = 0.0
    weights = numpy.repeat([1.0, 1e-12], 100)
    assert mixture(x, x, 2, 0, (weights, weights)) is None
