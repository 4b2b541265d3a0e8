"""Gaussians and mixtures of them, beside closed forms."""

from __future__ import annotations

import math

import numpy
import pytest
import torch
from support.small_models import make

from impflow_zoo import evaluate
from impflow_zoo.evaluation.baselines import gaussian, mixture

RANDOM = numpy.random.default_rng(0)
ROWS = RANDOM.normal(size=(4000, 3)) @ RANDOM.normal(size=(3, 3)) * [1.0, 10.0, 0.1] + 5


def test_a_gaussian_has_its_closed_form():
    found = gaussian(ROWS, ROWS, 3)
    _, logdet = numpy.linalg.slogdet(numpy.cov(ROWS.T, bias=True))
    assert found.validation == pytest.approx(-0.5 * (3 + 3 * math.log(2 * math.pi) + logdet))


def test_given_contexts_it_is_a_regression():
    x, c = ROWS[:, :1], ROWS[:, 1:]
    design = numpy.column_stack([numpy.ones(len(x)), c])
    residual = x - design @ numpy.linalg.lstsq(design, x, rcond=None)[0]
    expected = -0.5 * (1 + math.log(2 * math.pi * float(residual.var())))
    assert gaussian(ROWS, ROWS, 1).validation == pytest.approx(expected, rel=1e-6)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_mixture_integrates_to_one_and_sees_clusters():
    pytest.importorskip("sklearn")
    x = numpy.where(RANDOM.random((2000, 1)) < 0.5, -4.0, 4.0) + RANDOM.normal(size=(2000, 1))
    found = mixture(x[:1000], x[1000:], 1, 0)
    grid = numpy.linspace(-20, 20, 4001)
    area = numpy.trapezoid(numpy.exp(found.log_prob(grid[:, None])), grid)
    assert area == pytest.approx(1, abs=1e-6)
    assert found.name == "Gaussian mixture of 2"
    assert found.validation > gaussian(x[:1000], x[1000:], 1).validation + 0.3


def test_evaluate_shows_the_gaussian_of_the_rows():
    model = make(columns=("a", "b"), metric="bits").float()
    result = evaluate(model, ROWS[:, :2] / [1, 10])
    nats = gaussian(ROWS[:, :2] / [1, 10], ROWS[:, :2] / [1, 10], 2).validation
    assert result.gaussian == pytest.approx(-nats / math.log(2), rel=1e-5)
    assert f"{result.gaussian:.4f} bits, fitted to these rows; " in result.report("m")
    assert " behind it" in result.report("m")
    few = evaluate(model, torch.zeros(5, 2))
    assert few.gaussian is None
    assert "a Gaussian" not in few.report("m")
