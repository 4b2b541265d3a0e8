"""Scores: closed forms, what a value may depend on, and errors that are what they say."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import datasets
import numpy
import pandas
import pytest
import torch
from support.small_models import config, make

from impflow_zoo import ImpFlow, LogDet, NumericalWarning, ResFlow, create_model, evaluate
from impflow_zoo.data import Batch, TableSource, open_source
from impflow_zoo.evaluation import scoring
from impflow_zoo.evaluation.scoring import model_input, score
from impflow_zoo.models.flow import FlowModel

MOONS = {"dataset": "toy:moons", "split": "test"}


def affine(kind: type[FlowModel], **settings: Any) -> FlowModel:
    """A model of one block whose nets are affine: its density is a Gaussian."""
    return make(kind, blocks=1, net="spectral", hidden_features=(), lipschitz=0.5, **settings)


def gaussian(model: FlowModel) -> torch.distributions.Distribution:
    """The density of an affine model in closed form."""
    standardise, block = model.transform._transforms
    eye = torch.eye(2, dtype=torch.float64)
    with torch.no_grad():
        weights, biases = [], []
        for name in block.nets:
            (layer,) = getattr(block, name).layers
            weights.append(eye + layer.normalised_weight())
            biases.append(layer.bias)
        a, b = weights[0], biases[0]
        if isinstance(model, ImpFlow):
            inverse = torch.linalg.inv(weights[1])
            a, b = inverse @ a, inverse @ (b - biases[1])
        a, b = a * standardise._scale, b + a @ standardise._shift
        inverse = torch.linalg.inv(a)
    return torch.distributions.MultivariateNormal(-inverse @ b, inverse @ inverse.T)


def mean_and_error(values: torch.Tensor) -> tuple[float, float]:
    return float(values.mean()), float(values.std() / len(values) ** 0.5)


# ------------------------------------------------------------------------------------ values


@pytest.mark.parametrize("kind", [ImpFlow, ResFlow], ids=lambda k: k.__name__)
@pytest.mark.parametrize("metric", ["log_likelihood", "bits"])
def test_a_closed_form_gives_its_number(kind, metric):
    model = affine(kind, metric=metric)
    result = evaluate(model, **MOONS, limit=1000)
    rows = open_source("toy:moons", "test").rows(range(1000))
    unit = {"log_likelihood": 1.0, "bits": -1 / math.log(2)}[metric]
    value, error = mean_and_error(gaussian(model).log_prob(rows) * unit)
    assert result.metric == metric
    assert result.value == pytest.approx(value, rel=1e-10)
    assert result.stderr == pytest.approx(error, rel=1e-10)
    assert result.estimator_stderr == 0.0
    assert (result.n, result.logdet) == (1000, "exact")
    assert result.round_trip < 1e-10


def test_the_rows_of_the_round_trip_do_not_depend_on_batches():
    rows = open_source("toy:moons", "test")
    model = affine(ImpFlow)
    whole = score(model, rows, seed=0, limit=300).first
    parts = score(model, rows, seed=0, limit=300, batch_size=7).first
    assert whole.shape == (100, 2)
    assert torch.equal(whole, parts)


def test_a_scored_batch_keeps_no_other_rows():
    batch = Batch(torch.arange(50), torch.randn(50, 2, dtype=torch.float64))
    kept = scoring._score_batch(affine(ImpFlow), batch, 0, "rows", 7).first
    assert kept.untyped_storage().nbytes() == 7 * 2 * kept.element_size()


def test_a_wrong_inverse_is_seen(monkeypatch):
    model = affine(ImpFlow)
    standardise, _ = model.transform._transforms
    inverse = standardise.inverse
    monkeypatch.setattr(standardise, "inverse", lambda z, c=None: (inverse(z)[0] * 0.98, z[:, 0]))
    with pytest.warns(NumericalWarning, match="100 rows in torch.float64 is off"):
        result = evaluate(model, **MOONS, limit=100)
    assert result.round_trip > 0.01
    assert result.to_dict()["round_trip_inaccurate"]
    assert "inaccurate: more than 0.01" in result.report("")


def test_a_round_trip_without_enough_digits_is_said_once(tmp_path):
    """Rows 20 standard deviations away, where the spline of the model is flat."""
    model = create_model("mixed-power-plant")
    standardise = model.transform._transforms[0]
    x = 20 * torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    rows = standardise.inverse(x)[0].numpy()
    path = tmp_path / "far.csv"
    pandas.DataFrame(rows, columns=model.config.columns).to_csv(path, index=False)
    with pytest.warns(NumericalWarning) as caught:
        result = evaluate(model, path)
    assert len(caught) == 1
    assert "of a column: use model.double()" in str(caught[0].message)
    assert result.round_trip_inaccurate
    assert not evaluate(model.double(), path).round_trip_inaccurate


@pytest.mark.parametrize("mode", ["unbiased", "truncated"])
def test_an_estimate_agrees_with_the_closed_form_within_its_error(mode):
    model = affine(ResFlow, logdet=LogDet(mode))
    result = evaluate(model, **MOONS, limit=500)
    rows = open_source("toy:moons", "test").rows(range(500))
    value = float(gaussian(model).log_prob(rows).mean())
    assert result.estimator_stderr > 0
    assert abs(result.value - value) < 4 * result.estimator_stderr + 1e-6
    assert result.logdet == mode


NOISY = {"rounding": (0.1, 0.1), "logdet": LogDet("truncated", n_terms=3, n_probes=2)}


@pytest.mark.parametrize("n_probes", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 7, 60])
def test_a_value_does_not_depend_on_the_batch_size(batch_size, n_probes, monkeypatch):
    monkeypatch.setattr(scoring, "_TWICE", 25)
    model = make(ResFlow, **NOISY | {"logdet": replace(NOISY["logdet"], n_probes=n_probes)})
    whole, cut = (evaluate(model, **MOONS, limit=60, batch_size=b) for b in (1000, batch_size))
    assert cut.n == whole.n == 60
    for name in ("value", "stderr", "estimator_stderr", "truncation_bound", "solver_steps"):
        assert getattr(cut, name) == pytest.approx(getattr(whole, name), rel=1e-12), name


def test_a_limit_takes_the_first_rows():
    model = make()
    log_prob = model.log_prob(open_source("toy:moons", "test").rows(range(30)))
    assert evaluate(model, **MOONS, limit=30).value == pytest.approx(
        float(log_prob.detach().mean())
    )
    small = TableSource("small", torch.randn(9, 2, dtype=torch.float64), "ab")
    assert len(score(model, small, seed=0, limit=99).log_prob) == 9


def test_a_seed_decides_noise_and_probes():
    noisy, exact = make(ResFlow, **NOISY), make(ResFlow)
    values = [evaluate(noisy, **MOONS, limit=20, seed=s).value for s in (0, 0, 1)]
    assert values[0] == values[1] != values[2]
    assert len({evaluate(exact, **MOONS, limit=20, seed=s).value for s in (0, 1)}) == 1


def test_settings_may_be_numbers_of_numpy():
    model = make(rounding=(0.1, 0.1), logdet=LogDet("truncated", seed=numpy.int64(3)))
    numbers = {"seed": 2, "limit": 9, "batch_size": 4}
    one, other = (
        evaluate(model, **MOONS, **{name: kind(value) for name, value in numbers.items()})
        for kind in (int, numpy.int64)
    )
    assert one.value == other.value
    assert json.dumps(other.to_dict())


def test_noise_belongs_to_its_row():
    model = make(rounding=(1.0, 1.0))
    source = TableSource("same", torch.ones(10, 2, dtype=torch.float64), "ab")
    everything = source.read(range(10))
    whole = model_input(model, everything, 3)
    assert torch.equal(model_input(model, source.read(range(4, 7)), 3), whole[4:7])
    assert len(whole.unique()) == 20
    assert not torch.equal(model_input(model, everything, 4), whole)
    assert float((whole - 1).abs().max()) <= 0.5


@torch.no_grad()
@pytest.mark.parametrize("n_probes", [1, 2])
def test_the_estimator_error_is_the_spread_over_seeds(n_probes, monkeypatch):
    """Of a single probe it comes from the first rows, scored twice."""
    monkeypatch.setattr(scoring, "_TWICE", 20)
    model = make(ResFlow, logdet=LogDet("truncated", n_terms=8, n_probes=n_probes))
    results = [evaluate(model, **MOONS, limit=40, seed=seed) for seed in range(30)]
    spread = torch.tensor([r.value for r in results], dtype=torch.float64).std()
    stated = sum(r.estimator_stderr for r in results) / len(results)
    assert stated == pytest.approx(float(spread), rel=0.4)  # 3 errors of a spread from 30 values


def test_a_model_in_training_is_scored_as_in_evaluation_and_left_as_it_was():
    model = ImpFlow(config()).double()
    untouched = {k: v.clone() for k, v in model.named_parameters()}
    value = evaluate(model, **MOONS, limit=20).value
    assert model.training
    assert all(torch.equal(v, untouched[k]) for k, v in model.named_parameters())
    assert value == evaluate(model.eval(), **MOONS, limit=20).value


def test_a_result_is_json_whatever_is_not_known():
    data = evaluate(make(), MOONS["dataset"], datasets.Split.TEST, limit=1).to_dict()
    text = json.dumps(data, allow_nan=False)
    assert json.loads(text)["stderr"] is None
    assert {"metric", "value", "stderr", "estimator_stderr", "n"} <= data.keys()


def test_a_report_says_it_in_words():
    exact = evaluate(make(), **MOONS, limit=50).report("mine")
    assert "toy:moons, split test: 50 rows" in exact
    assert "truncation" not in exact
    truncated = evaluate(make(**NOISY), **MOONS, limit=50).report("mine")
    assert "log-det truncated" in truncated
    assert "truncation           bound" in truncated
