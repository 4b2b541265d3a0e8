"""The end-user models: densities in the data's units, and samples."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
import warnings

import pytest
import torch
from nflows.transforms import ActNorm
from support.blocks import dense_logdet
from support.small_models import config, make, rows
from torch import Tensor

from impflow_zoo import ImageConfig, ImpFlow, LogDet, MonotoneFlow, NumericalWarning, ResFlow
from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.transforms.standardise import Standardise

every_kind = pytest.mark.parametrize("kind", [ImpFlow, ResFlow], ids=lambda k: k.__name__)


def reseeded(model: FlowModel, seed: int) -> FlowModel:
    """The same weights with other probes."""
    twin = type(model)(dataclasses.replace(model.config, seed=seed)).to(rows())
    twin.load_state_dict(model.state_dict())
    return twin.eval()


def grid(model: FlowModel, size: int = 300) -> tuple[Tensor, float]:
    """Points that cover all samples of a model in the plane, and the area of one cell."""
    samples = model.sample(20_000)
    low, high = samples.amin(dim=0), samples.amax(dim=0)
    margin = 0.25 * (high - low)
    x, y = (torch.linspace(a, b, size) for a, b in torch.stack((low - margin, high + margin), 1))
    return torch.cartesian_prod(x, y).double(), float((x[1] - x[0]) * (y[1] - y[0]))


# --------------------------------------------------------------------------------- densities


def map_by_hand(model: FlowModel, x: Tensor, context: Tensor | None) -> Tensor:
    """Data -> noise from the parameters alone, every root by plain iteration."""
    inputs = () if context is None else (context,)
    for step in model.transform._transforms:
        if isinstance(step, Standardise):
            x = x * step._scale + step._shift
        elif isinstance(step, ActNorm):
            x = x * step.log_scale.exp() + step.shift
        elif isinstance(model, ResFlow):
            x = x + step.net(x, *inputs)
        else:
            target = x + step.net_x(x, *inputs)
            z = target.detach()
            for _ in range(150):  # 0.8^150 is 3e-15
                z = target - step.net_z(z, *inputs)
            x = z
    return x


@every_kind
@pytest.mark.parametrize("context", [None, 3])
def test_log_prob_is_the_change_of_variables(kind, context):
    model, x = make(kind, context_features=context), rows(4)
    c = None if context is None else torch.randn(4, context, dtype=torch.float64)
    z = map_by_hand(model, x, c)
    volume = dense_logdet(lambda x: map_by_hand(model, x, c), x)
    expected = -0.5 * (z**2).sum(dim=1) - math.log(2 * math.pi) + volume
    torch.testing.assert_close(model.log_prob(x, c), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model.flow.log_prob(x, c), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model.transform(x, c)[0], z, rtol=1e-9, atol=1e-9)


@every_kind
def test_the_density_integrates_to_one_and_is_that_of_the_samples(kind):
    model = make(kind)
    points, area = grid(model)
    with torch.no_grad():
        mass = model.log_prob(points).exp() * area
    assert float(mass.sum()) == pytest.approx(1, abs=1e-3)
    samples = model.sample(20_000)
    for moment in (lambda x: x, lambda x: x**2, torch.sin):
        expected = (moment(points) * mass[:, None]).sum(dim=0)
        values = moment(samples)
        error = values.std(dim=0) / len(values) ** 0.5
        assert bool(((values.mean(dim=0) - expected).abs() < 4 * error + 2e-3).all())


def test_a_conditional_density_integrates_to_one_for_each_context():
    model = make(ImpFlow, context_features=1)
    contexts = torch.tensor([[-2.0], [2.0]], dtype=torch.float64)
    samples = model.sample(5000, contexts).flatten(0, 1)
    low, high = samples.amin(dim=0) - 1, samples.amax(dim=0) + 1
    x, y = (torch.linspace(float(a), float(b), 200) for a, b in zip(low, high, strict=True))
    points = torch.cartesian_prod(x, y).double()
    area = float((x[1] - x[0]) * (y[1] - y[0]))
    with torch.no_grad():
        masses = [model.log_prob(points, c.expand(len(points), 1)).exp() * area for c in contexts]
    for mass in masses:
        assert float(mass.sum()) == pytest.approx(1, abs=1e-3)
    assert float((masses[0] - masses[1]).abs().sum()) > 0.1  # it does depend on the context


@every_kind
@pytest.mark.parametrize(
    "logdet", ["exact", LogDet("truncated", n_terms=5)], ids=["exact", "series"]
)
def test_an_answer_depends_on_its_row_alone(kind, logdet):
    model, x = make(kind, logdet=LogDet.of(logdet)), rows(20)
    many = model.log_prob(x)
    one_by_one = torch.cat([model.log_prob(row[None]) for row in x])
    torch.testing.assert_close(one_by_one, many, rtol=1e-12, atol=0)
    assert torch.equal(model.log_prob(x), many)


# ------------------------------------------------------------------------------------ errors


def test_exact_log_probs_have_no_error():
    model, x = make(), rows()
    value, error = model.log_prob_with_error(x)
    assert torch.equal(value, model.log_prob(x))
    assert torch.equal(error, torch.zeros_like(value))


@pytest.mark.parametrize("kind", [ImpFlow, ResFlow, MonotoneFlow])
@torch.no_grad()
def test_the_error_of_truncated_log_probs_is_their_spread_over_seeds(kind):
    model = make(kind, features=8, logdet=LogDet("truncated", n_terms=10, n_probes=4))
    x = rows(50, 8)
    value, error = model.log_prob_with_error(x)
    assert torch.equal(value, model.log_prob(x))
    answers = [reseeded(model, seed).log_prob_with_error(x) for seed in range(30)]
    spread = torch.stack([value for value, _ in answers]).std(dim=0)
    stated = torch.stack([error for _, error in answers]).square().mean(dim=0).sqrt()
    assert bool((error > 0).all())
    assert float((stated / spread).mean()) == pytest.approx(1, abs=0.07)


@torch.no_grad()
def test_unbiased_log_probs_agree_with_exact_ones_within_their_error():
    exact = make(ResFlow, features=8, lipschitz=0.6, logdet=LogDet("exact"))
    model = make(ResFlow, features=8, lipschitz=0.6, logdet=LogDet("unbiased"))
    model.load_state_dict(exact.state_dict())
    x = rows(400, 8)
    value, error = model.log_prob_with_error(x)
    scores = (value - exact.log_prob(x)) / error
    assert float(scores.mean()) == pytest.approx(0, abs=4 * 1.2 / 20)
    # Eight draws make a t distribution with 7 degrees of freedom, of variance 7/5.
    assert float(scores.std()) == pytest.approx(1.4**0.5, rel=0.2)


def test_a_single_seeded_probe_says_nothing_of_its_error():
    model = make(ResFlow, features=8, logdet=LogDet("truncated", n_probes=1))
    assert bool(model.log_prob_with_error(rows(3, 8))[1].isnan().all())


# ----------------------------------------------------------------------------------- samples


@every_kind
def test_encode_and_decode_are_the_transform_without_its_log_det(kind):
    model, x = make(kind), rows()
    z = model.encode(x)
    back = model.decode(z)
    torch.testing.assert_close(z, model.transform(x)[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(back, model.transform.inverse(z)[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-9)


def test_the_flow_samples_in_the_type_of_the_model():
    assert make().flow.sample(3).dtype == torch.float64
    assert make(dtype=torch.float32).flow.sample(3).dtype == torch.float32
    assert type(make())(make().config).flow.sample(3).dtype == torch.float32  # as it is made


def test_samples_have_the_shape_of_the_data():
    plain, conditional = make(), make(context_features=3)
    assert plain.sample(4).shape == (4, 2)
    assert plain.sample(0).shape == (0, 2)
    assert conditional.sample(4, torch.randn(5, 3)).shape == (5, 4, 2)
    assert plain.sample(4).dtype == torch.float64
    assert not plain.sample(4).requires_grad


def test_samples_come_from_their_generator_alone():
    model, state = make(), torch.get_rng_state()
    first, second = (model.sample(5, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(model.sample(5), first)


def test_every_sample_goes_with_its_context():
    model = make(context_features=1)
    contexts = torch.tensor([[-3.0], [3.0]], dtype=torch.float64)
    together = model.sample(3, contexts, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    apart = [model.decode(noise[3 * i : 3 * i + 3], contexts[[i] * 3]) for i in range(2)]
    torch.testing.assert_close(together, torch.stack(apart), rtol=1e-12, atol=1e-12)


def test_temperature_scales_the_noise():
    model = make()
    assert torch.equal(model.sample(3, temperature=0.0), model.decode(rows(3) * 0))
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    noise = torch.randn(3, 2, generator=generators[0], dtype=torch.float64)
    assert torch.equal(
        model.sample(3, temperature=0.5, generator=generators[1]), model.decode(0.5 * noise)
    )


# ------------------------------------------------------------------------------------ copies


@every_kind
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"]
)
def test_copies_are_the_same_model_and_independent_of_it(kind, copied):
    model, x = make(kind, dtype=torch.float32), rows(dtype=torch.float32)
    before, twin = model.log_prob(x), copied(model)
    assert twin.config == model.config
    assert torch.equal(twin.log_prob(x), before)
    with torch.no_grad():
        next(twin.parameters()).mul_(0.5)
    assert torch.equal(model.log_prob(x), before)


@every_kind
def test_a_model_made_double_agrees_to_single_precision(kind):
    model, x = make(kind, dtype=torch.float32), rows(dtype=torch.float32)
    single = model.log_prob(x)
    double = copy.deepcopy(model).double().log_prob(x.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------- preprocessing


def test_preprocessing_standardises_the_training_rows():
    model = ImpFlow(config())
    x = torch.tensor([100.0, -3.0]) + torch.tensor([20.0, 0.01]) * torch.randn(1000, 2)
    model.fit_preprocessing(x)
    std, mean = torch.std_mean(model.transform._transforms[0](x)[0], dim=0)
    torch.testing.assert_close(mean, torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(std, torch.ones(2), atol=1e-4, rtol=0)


def test_a_constant_column_is_refused():
    with pytest.raises(ModelError, match=r"columns \[1\] are constant"):
        ImpFlow(config()).fit_preprocessing(torch.tensor([[1.0, 2.0], [3.0, 2.0]]))


def test_dequantisation_spreads_a_value_over_its_rounding_step():
    model = make(rounding=(0.0, 0.5))
    raw = torch.full((1000, 2), 2.0, dtype=torch.float64)
    spread = model.dequantise(raw, torch.rand(1000, 2, dtype=torch.float64)) - raw
    assert model.preprocessing.adds_noise
    assert torch.equal(spread[:, 0], torch.zeros(1000, dtype=torch.float64))
    assert float(spread[:, 1].min()) == pytest.approx(-0.25, abs=0.01)
    assert float(spread[:, 1].max()) == pytest.approx(0.25, abs=0.01)
    assert not make().preprocessing.adds_noise


@pytest.mark.parametrize("factor_out", [False, True])
@pytest.mark.parametrize("width", [8, 17, 32])
def test_noise_of_images_has_one_width(factor_out, width):
    config = ImageConfig(1, (4, 4), blocks=(1, 1), width=8, factor_out=factor_out)
    with pytest.raises(ValueError, match=rf"noise .*\(2, {width}\): .* \[B, 16\]"):
        ImpFlow(config).eval().transform.inverse(torch.zeros(2, width))


def test_the_constant_of_the_noise_is_exact_in_float64():
    model = make(dtype=torch.float32).double()
    expected = -0.5 * math.log(2 * math.pi) * 2
    found = float(model.flow._distribution.log_prob(torch.zeros(1, 2, dtype=torch.float64)))
    assert found == expected


def test_columns_too_far_from_zero_for_their_type_are_reported():
    model = ImpFlow(config())
    far = 1e5 + torch.randn(100, 2, dtype=torch.float64)
    with pytest.warns(NumericalWarning, match="rounds .* subtract an offset"):
        model.fit_preprocessing(far)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ImpFlow(config()).double().fit_preprocessing(far)
        ImpFlow(config()).fit_preprocessing(far - 1e5 + 2000)
    # Rounded more, a column is left with few values, and its score has no meaning.
    with pytest.raises(ModelError, match="rounds .* subtract an offset"):
        model.fit_preprocessing(far * 1e-4 + 1e5)
    model.double().fit_preprocessing(far * 1e-4 + 1e5)
