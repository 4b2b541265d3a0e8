"""Columns between bounds: the map in every type, and densities in the data's own units."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.small_models import write_recipe
from torch.distributions import LogNormal, Normal

from impflow_zoo import (
    ImpFlow,
    LinearGaussian,
    LinearGaussianConfig,
    TabularConfig,
    create_model,
    evaluate,
    training,
)
from impflow_zoo.models.fields import ConfigError, ModelError
from impflow_zoo.transforms.interval import Interval

OPEN = math.inf
ENDS = {"both": (-2.0, 5.0), "low": (1.0, OPEN), "high": (-OPEN, 3.0), "none": (-OPEN, OPEN)}


@pytest.mark.parametrize("kind", ENDS)
def test_the_map_has_the_dense_determinant_and_an_inverse(kind):
    low, high = ENDS[kind]
    step = Interval((low, -OPEN), (high, OPEN))
    z = torch.randn(50, 2, dtype=torch.float64)
    z[0] = 0.0  # the middle, where the two tails meet
    x, logabsdet = step.inverse(z)
    back, forth = step(x)
    torch.testing.assert_close(back, z)
    torch.testing.assert_close(forth, -logabsdet)
    for i in range(50):
        row = x[i : i + 1]
        dense = torch.autograd.functional.jacobian(lambda r: step(r)[0][0], row)[:, 0]
        torch.testing.assert_close(torch.linalg.slogdet(dense)[1], forth[i])
        noise = z[i : i + 1]
        dense = torch.autograd.functional.jacobian(lambda r: step.inverse(r)[0][0], noise)[:, 0]
        torch.testing.assert_close(torch.linalg.slogdet(dense)[1], logabsdet[i])


finite = st.floats(-1e6, 1e6, allow_nan=False)


@given(
    finite, st.floats(1e-3, 1e6), st.floats(-1e30, 1e30), st.sampled_from(["both", "low", "high"])
)
def test_nothing_comes_back_on_a_bound_or_beyond_it(low, width, z, kind):
    width = max(width, 1e-4 * abs(low))  # float32 has numbers in between
    high = low + width if kind in ("both", "high") else OPEN
    low = low if kind in ("both", "low") else -OPEN
    for dtype in (torch.float32, torch.float64):
        x, _ = Interval((low,), (high,)).inverse(torch.tensor([[z]], dtype=dtype))
        assert low < x.item() < high


def bounded(**bounds: object) -> TabularConfig:
    sizes = {"blocks": 2, "hidden_features": (8, 8), "lipschitz": 0.8}
    return TabularConfig(len(bounds), columns=tuple(bounds), bounds=bounds, **sizes)


@pytest.mark.parametrize("ends", [(0.0, 1.0), (2.0, None), (None, -1.0)], ids=str)
@torch.no_grad()
def test_the_density_integrates_to_one_within_the_bounds(ends):
    torch.manual_seed(0)
    low, high = (math.copysign(OPEN, i - 0.5) if e is None else e for i, e in enumerate(ends))
    model = ImpFlow(bounded(a=ends)).double().eval()
    start = Interval((low,), (high,))
    model.fit_preprocessing(start.inverse(torch.randn(200, 1, dtype=torch.float64))[0])
    # Substituted by the map itself, of which no part of the model is asked.
    z = torch.linspace(-14, 14, 20_001, dtype=torch.float64)[:, None]
    x, logabsdet = start.inverse(z)
    density = (model.log_prob(x) + logabsdet).exp()
    assert float(torch.trapezoid(density, z[:, 0])) == pytest.approx(1, abs=1e-5)
    samples = model.float().sample(2000)
    assert bool(((samples > low) & (samples < high)).all())
    assert bool(model.log_prob(samples).isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_rows_become_normal_ones(dtype):
    """The noise of all flows is normal, so that a flow of uniform rows has nothing to learn."""
    low, high = -3.0, 7.0
    z = torch.linspace(-4.5, 4.5, 101, dtype=dtype)[:, None]
    x = low + (high - low) * Normal(0, 1).cdf(z)
    found, logabsdet = Interval((low,), (high,))(x)
    tolerance = {"rtol": 0, "atol": 2e-2 if dtype == torch.float32 else 1e-9}
    torch.testing.assert_close(found, z, **tolerance)
    expected = -Normal(0, 1).log_prob(z)[:, 0] - math.log(high - low)
    torch.testing.assert_close(logabsdet, expected, rtol=0, atol=10 * tolerance["atol"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_beside_a_bound_come_back(dtype):
    """Near 0 there are numbers of all sizes; both tails are computed from their own end."""
    near = torch.logspace(-30, -1, 30, dtype=dtype)[:, None]
    for low, high, x in ((0.0, 2.0, near), (-2.0, 0.0, -near)):
        step = Interval((low,), (high,))
        z, forth = step(x)
        back, logabsdet = step.inverse(z)
        torch.testing.assert_close(back, x, rtol=1e3 * torch.finfo(dtype).eps, atol=0)
        torch.testing.assert_close(forth, -logabsdet, rtol=1e-5, atol=1e-5)


def test_log_normal_in_closed_form():
    torch.manual_seed(0)
    config = LinearGaussianConfig(1, columns=("a",), bounds={"a": (0.0, None)})
    model = LinearGaussian(config).double().eval()
    x = LogNormal(1.0, 0.5).sample((500, 1)).double()
    model.fit_preprocessing(x)
    std, mean = torch.std_mean(x.log())
    torch.testing.assert_close(model.log_prob(x), LogNormal(mean, std).log_prob(x)[:, 0])


@pytest.mark.parametrize("value", [100.0, 100.15, 0.0, -1.0])
def test_rows_that_are_not_within_are_refused_by_name(value):
    model = ImpFlow(bounded(h=(0.0, 100.0), t=(None, 50.0))).eval()
    x = torch.full((4, 2), 10.0)
    x[2, 0] = value
    match = rf"column h is not within .* 0 and 100, .*1 of 4 .*row 2, {value:g}"
    with pytest.raises(ModelError, match=match):
        model.log_prob(x)
    with pytest.raises(ModelError, match="column h is not within"):
        model.fit_preprocessing(x)
    assert model.preprocessing.inside(x).tolist() == [True, True, False, True]


def test_evaluate_counts_the_rows_of_the_file(tmp_path):
    file = tmp_path / "train.csv"
    file.write_text("a\n" + "0.5\n" * 25 + "1.5\n" + "0.5\n" * 10 + "1\n")
    model = ImpFlow(bounded(a=(0.0, 1.0))).eval()
    with pytest.raises(ModelError, match=r"2 of 37 rows .*row 25, 1.5"):
        evaluate(model, str(file), batch_size=10)
    assert evaluate(model, str(file), limit=25, batch_size=10).n == 25


def test_rows_that_float32_puts_on_a_bound_are_refused_before_the_first_batch(tmp_path):
    file = tmp_path / "train.csv"
    file.write_text("a\n" + "0.5\n0.25\n" * 15 + "0.9999999999\n")
    model = ImpFlow(bounded(a=(0.0, 1.0))).eval()
    match = r"1 of 31 rows .*row 30, 1\)"
    with pytest.raises(ModelError, match=match):
        evaluate(model, str(file), batch_size=10)
    with pytest.raises(ModelError, match=match):
        model.fit_preprocessing(
            torch.tensor([[0.5], [0.25]] * 15 + [[0.9999999999]], dtype=torch.float64)
        )
    rows = torch.tensor([[0.5], [0.9999999999]], dtype=torch.float64)
    model.double().fit_preprocessing(rows)


@pytest.mark.parametrize("ends", [(1e8, 1e8 + 1), (1990.0, 1990.001)], ids=str)
def test_bounds_that_float32_hardly_tells_apart_are_refused(ends):
    with pytest.raises(ConfigError, match=r"bounds.a=.*subtract an offset"):
        bounded(a=ends)


def test_evaluate_and_training_refuse_them_too(tmp_path):
    file = tmp_path / "train.csv"
    file.write_text("a\n" + "0.5\n0.25\n" * 20 + "1.5\n")
    model = ImpFlow(bounded(a=(0.0, 1.0))).eval()
    with pytest.raises(ModelError, match=r"column a is not within .*row 40, 1.5"):
        evaluate(model, str(file))
    config = {"features": 1, "columns": ["a"], "bounds": {"a": [0, 1]}}
    data = {"dataset": str(file), "validation_rows": 5}
    recipe = write_recipe(tmp_path, config=config, data=data)
    with pytest.raises(ModelError, match="column a is not within its bounds"):
        evaluate_trained(recipe, tmp_path, file)


def evaluate_trained(recipe, folder, file):
    training.train(recipe, out=folder / "run", progress=False)
    return evaluate(create_model(folder / "run", verify=True), str(file), "train", limit=40)


@pytest.mark.parametrize(
    ("low", "high", "spread"), [(139.5, 139.9, 4e-5), (1.69999e9, None, 600.0)]
)
def test_bounds_do_not_bring_digits_back_that_float32_loses(low, high, spread):
    """Within the bounds the values lie near zero, but the model's input is rounded before."""
    config = LinearGaussianConfig(1, columns=("a",), bounds={"a": (low, high)})
    rows = low + 100 * spread + spread * torch.rand(100, 1, dtype=torch.float64)
    with pytest.raises(ModelError, match="column a lies far from zero .* subtract an offset"):
        LinearGaussian(config).fit_preprocessing(rows)


def test_rounded_columns_may_reach_their_bounds(tmp_path):
    file = tmp_path / "train.csv"
    file.write_text("h,t\n" + "".join(f"{i % 101},{0.1 * (i % 7)}\n" for i in range(303)))
    config = {
        "features": 2,
        "columns": ["h", "t"],
        "bounds": {"h": [0, 100], "t": [0, None]},
        "rounding": [1.0, 0.1],
    }
    data = {"dataset": str(file), "validation_rows": 50}
    recipe = write_recipe(tmp_path, config=config, data=data)
    result = evaluate_trained(recipe, tmp_path, file)
    assert math.isfinite(result.value)
    model = create_model(tmp_path / "run")
    ends = torch.tensor([[0.0, 0.0], [100.0, 0.6], [50.0, 0.3]], dtype=torch.float64)
    for noise in (1e-9, 0.5, 1 - 1e-9):
        x = model.dequantise(ends, torch.full_like(ends, noise))
        assert bool(model.preprocessing.inside(x.float()).all())
        assert bool(((x - ends).abs() <= torch.tensor([0.5, 0.05]).double() + 1e-12).all())
    with pytest.raises(ModelError, match="1 of 1 rows.*or add noise .* by model.dequantise"):
        model.log_prob(ends[1:2].float())
    with pytest.raises(ModelError, match="column h is not within its bounds.*101"):
        model.dequantise(torch.tensor([[101.0, 0.0]]), torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"b": (0, 1)}, "bounds: there is no column 'b'; the columns are a"),
        ({"a": (0,)}, r"bounds.a=\(0.0,\): \[low, high\] expected"),
        ({"a": (1, 1)}, "a low end below a high one"),
        ({"a": (2, 1)}, "a low end below a high one"),
        ({"a": (None, None)}, "a low end below a high one"),
        ({"a": ("0", 1)}, r"'bounds.a\[0\]' is '0': float .*without quotes"),
        ([0, 1], r"'bounds' is \[0, 1\]: dict expected"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(bounds, message):
    with pytest.raises(ConfigError, match=message):
        TabularConfig(1, columns=("a",), bounds=bounds)
