"""Errors, scores and coverage of samples, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

from impflow_zoo import ImpFlow, LinearGaussian, LinearGaussianConfig, TabularConfig, evaluate
from impflow_zoo.evaluation.predictive import centred, crps, crps_of_angles, pit, predictive
from impflow_zoo.evaluation.processes import Processes

N, SPREAD = 4000, 3.0


def gaussian_crps(x: torch.Tensor) -> torch.Tensor:
    """Of a standard normal (Gneiting & Raftery, 2007)."""
    law = Normal(0.0, 1.0)
    density = law.log_prob(x).exp()
    return x * (2 * law.cdf(x) - 1) + 2 * density - 1 / math.sqrt(math.pi)


def test_crps_is_that_of_a_gaussian():
    torch.manual_seed(0)
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None].repeat(500, 1)
    found = crps(torch.randn(len(x), 20, 1, dtype=torch.float64), x).view(500, 7)
    error = found.std(dim=0) / 500**0.5  # unbiased, with 20 samples
    assert bool(((found.mean(dim=0) - gaussian_crps(x[:7, 0])).abs() < 5 * error).all())


def test_crps_is_the_sum_over_pairs():
    samples, x = torch.randn(3, 5, 2, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    pairs = (samples[:, :, None] - samples[:, None]).abs().sum(dim=(1, 2)) / (5 * 4)
    expected = (samples - x[:, None]).abs().mean(dim=1) - pairs / 2
    torch.testing.assert_close(crps(samples, x), expected)


def linear() -> tuple[LinearGaussian, torch.Tensor, torch.Tensor]:
    """The model that the rows were drawn from, `a = 2 c + N(0, 3)`."""
    torch.manual_seed(0)
    names = {"columns": ("a",), "context_columns": ("c",)}
    model = LinearGaussian(LinearGaussianConfig(1, **names)).double().eval()
    regression, whitening = next(iter(model.transform.children()))[1:]
    with torch.no_grad():
        regression.weight.fill_(2.0)
        whitening.unconstrained_upper_diag.fill_(-math.log(SPREAD))
    c = 10 * torch.randn(N, 1, dtype=torch.float64)
    return model, 2 * c + SPREAD * torch.randn(N, 1, dtype=torch.float64), c


def test_the_right_model_is_calibrated():
    model, x, c = linear()
    (found,) = predictive(model, x, c, seed=0)
    assert found.column == "a"
    assert found.rmse == pytest.approx(SPREAD, rel=5 / (2 * N) ** 0.5)
    assert found.crps == pytest.approx(SPREAD / math.sqrt(math.pi), rel=0.06)
    assert found.within_50 == pytest.approx(0.5, abs=5 * (0.25 / N) ** 0.5)
    assert found.within_90 == pytest.approx(0.9, abs=5 * (0.09 / N) ** 0.5)


def test_places_are_uniform_where_samples_are_right():
    samples, x = torch.randn(2000, 99, 1), torch.randn(2000, 1)
    places = pit(samples, x)
    assert float(places.min()) > 0
    assert float(places.max()) < 1
    counts = torch.histc(places, 10, 0, 1)
    assert float(((counts - 200) ** 2 / 200).sum()) < 30  # chi^2 of 9: once in 2000


def test_angles_are_scored_the_shorter_way_round():
    """The same rows and samples, turned to the seam and away from it."""
    config = TabularConfig(1, columns=("a",), context_columns=("c",), periodic={"a": 360.0})
    model = ImpFlow(config)
    torch.manual_seed(0)
    samples = 10 * torch.randn(500, 99, 1, dtype=torch.float64)
    x = 10 * torch.randn(500, 1, dtype=torch.float64)
    for at in (0, 180, 355):
        around, places = centred(model, (at + samples).remainder(360), (at + x).remainder(360))
        mean = around.mean(dim=1)
        torch.testing.assert_close(places - mean, x - samples.mean(dim=1), rtol=0, atol=1e-10)
        found = crps_of_angles(around[:, :, 0], places[:, 0], 360.0)
        torch.testing.assert_close(found, crps(samples, x)[:, 0])
        assert bool((pit(around, places) == pit(samples, x)).all())


@pytest.mark.parametrize("spread", [40.0, 100.0, 1e4])
def test_ranks_are_uniform_for_samples_that_go_round_the_circle(spread):
    """A mean direction of the samples alone left 44 % of the rows in the interval of 50 %."""
    config = TabularConfig(1, columns=("a",), context_columns=("c",), periodic={"a": 360.0})
    torch.manual_seed(0)
    points = (spread * torch.randn(10_000, 100, 1, dtype=torch.float64)).remainder(360)
    places = pit(*centred(ImpFlow(config), points[:, 1:], points[:, 0]))
    counts = torch.histc(places, 10, 0, 1)
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 30  # chi^2 of 9: once in 2000


def test_the_score_of_angles_is_the_sum_over_pairs():
    samples, x = 24 * torch.rand(3, 5).double(), 24 * torch.rand(3).double()
    apart = (samples[:, :, None] - samples[:, None, :]).abs()
    off = (samples - x[:, None]).abs()
    pairs = torch.minimum(apart, 24 - apart).sum(dim=(1, 2)) / (5 * 4)
    expected = torch.minimum(off, 24 - off).mean(dim=1) - pairs / 2
    torch.testing.assert_close(crps_of_angles(samples, x, 24.0), expected)


def test_predictions_of_an_angle_do_not_depend_on_its_seam(monkeypatch):
    config = TabularConfig(1, columns=("a",), context_columns=("c",), periodic={"a": 360.0})
    torch.manual_seed(0)
    samples = 10 * torch.randn(500, 99, 1, dtype=torch.float64)
    x, found = 10 * torch.randn(500, 1, dtype=torch.float64), []
    for at in (0, 180):
        turned = (at + samples).remainder(360)
        monkeypatch.setattr(
            "impflow_zoo.evaluation.predictive.drawn",
            lambda model, context, seed, turned=turned: turned[: len(context)],
        )
        found += predictive(ImpFlow(config), (at + x).remainder(360), torch.zeros(500, 1), seed=0)
    assert found[0] == found[1]
    assert found[0].rmse == pytest.approx(10, rel=0.1)


def test_evaluate_reports_it(tmp_path):
    model, x, c = linear()
    lines = [f"{a},{b}" for a, b in zip(x[:50, 0].tolist(), c[:50, 0].tolist(), strict=True)]
    (tmp_path / "test.csv").write_text("\n".join(["a,c", *lines]))
    result = evaluate(model, str(tmp_path / "test.csv"))
    assert result.predictive == predictive(model, x[:50], c[:50], seed=0)
    assert "a: RMSE" in result.report("model")
    assert result.to_dict()["predictive"][0]["column"] == "a"


def test_processes_share_the_rows():
    model, x, c = linear()
    shares = []

    class InTurn(Processes):
        def gather(self, own):
            shares.append(own)
            return shares

    for rank in (0, 1):
        found = predictive(model, x, c, seed=0, processes=InTurn(rank, 2))
    assert [share.shape[-1] for share in shares] == [N // 2, N // 2]
    assert found == predictive(model, x, c, seed=0)


def test_predictions_can_be_left_out(monkeypatch):
    monkeypatch.setattr("impflow_zoo.evaluation.predictive.drawn", None)
    result = evaluate("impflow-power-plant-given-weather", limit=5, predictions=False)
    assert (result.n, result.predictive) == (5, ())
