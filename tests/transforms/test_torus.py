"""Angles: periodic densities, maps of the torus, and the certificate that proves invertibility."""

from __future__ import annotations

import math

import pytest
import torch
from support.dealt import crossed
from support.small_models import write_recipe
from torch import Tensor, nn
from torch.distributions import VonMises

from impflow_zoo import (
    ImpFlow,
    ImpFlowTransform,
    MonotoneFlow,
    ResFlow,
    ResFlowTransform,
    SandwichMLP,
    TabularConfig,
    create_model,
    evaluate,
    training,
)
from impflow_zoo.lipschitz.certify import certify
from impflow_zoo.models.fields import ConfigError, ModelError
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.numerics.folded import Negated
from impflow_zoo.transforms.torus import Angles, CircleToLine, TorusNet

TURN = 2 * math.pi
SIZES = {"blocks": 3, "hidden_features": (16, 16), "lipschitz": 0.9}
CASES = {
    "circle": {"columns": ("a",), "periodic": {"a": 360.0}},
    "torus": {"columns": ("a", "b"), "periodic": {"a": 360.0, "b": 1.0}},
    "mixed": {"columns": ("x", "a", "h"), "periodic": {"a": 24.0}, "bounds": {"h": (0.0, None)}},
    "given": {"columns": ("a", "x"), "periodic": {"a": 24.0}, "context_columns": ("c",)},
}
KINDS = (ImpFlow, ResFlow, MonotoneFlow)


def made(kind: type[FlowModel], case: str) -> tuple[FlowModel, Tensor, Tensor | None]:
    """A model whose map is far from the identity, in float64, with rows and contexts."""
    torch.manual_seed(0)
    settings = CASES[case]
    features = len(settings["columns"])
    model = kind(TabularConfig(features, whiten=case == "mixed", **SIZES, **settings)).double()
    x = torch.rand(200, features, dtype=torch.float64) * 30 + 0.1
    c = torch.randn(200, 1, dtype=torch.float64) if case == "given" else None
    model.fit_preprocessing(x, c)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.5 * torch.randn_like(p)
    model.train().encode(x, c)  # ActNorm and whitening start from these rows
    return model.eval(), x[:20], None if c is None else c[:20]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_period_on_the_density_is_the_same(kind, case):
    model, x, c = made(kind, case)
    before = model.log_prob(x, c)
    for name, period in model.config.periodic.items():
        moved = x.clone()
        moved[:, model.config.columns.index(name)] += period * torch.randint(-3, 4, (len(x),))
        torch.testing.assert_close(model.log_prob(moved, c), before, rtol=1e-8, atol=1e-8)


def test_turns_are_taken_off_before_rows_are_rounded():
    """The time of the day, from seconds since 1970: float32 tells minutes of these apart."""
    torch.manual_seed(0)
    config = TabularConfig(1, columns=("a",), periodic={"a": 86400.0}, rounding=(1.0,), **SIZES)
    model = ImpFlow(config).eval()
    day = 86400 * torch.rand(50, 1, dtype=torch.float64)
    later = day + 86400 * 20_000
    torch.testing.assert_close(model.log_prob(later), model.log_prob(day), rtol=0, atol=2e-6)
    noise = torch.rand(50, 1, dtype=torch.float64)
    moved = model.dequantise(later, noise).float() - model.dequantise(day, noise).float()
    assert float(moved.abs().max()) < 0.01


@pytest.mark.parametrize(
    ("case", "kind"), crossed({case: case for case in CASES}, {k.__name__: k for k in KINDS})
)
def test_the_round_trip_and_the_dense_determinant(kind, case):
    model, x, c = made(kind, case)
    z, logabsdet = model.transform(x, c)
    back, minus = model.transform.inverse(z, c)
    away = model.preprocessing.difference(back, x).detach().abs().max()
    assert float(away) < 1e-6
    torch.testing.assert_close(minus, -logabsdet, rtol=1e-6, atol=1e-6)
    for i in range(len(x)):
        given = None if c is None else c[i : i + 1]
        row = x[i : i + 1]
        dense = torch.autograd.functional.jacobian(
            lambda r, given=given: model.encode(r, given)[0], row
        )[:, 0]
        found = torch.linalg.slogdet(dense)[1]
        torch.testing.assert_close(found, logabsdet[i], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_density_integrates_to_one(kind):
    model, _, _ = made(kind, "circle")
    a = torch.arange(4000, dtype=torch.float64)[:, None] * 360 / 4000
    assert float(model.log_prob(a).exp().mean() * 360) == pytest.approx(1, abs=1e-6)
    model, _, _ = made(kind, "torus")
    side = torch.arange(100, dtype=torch.float64) / 100
    grid = torch.cartesian_prod(360 * side, side)
    assert float(model.log_prob(grid).exp().mean() * 360) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_samples_lie_within_a_period_and_follow_the_density(case):
    model, _, c = made(ImpFlow, case)
    model = model.float()
    x = model.sample(500, c if c is None else c[:1].float())
    x = x if c is None else x[0]
    for name, period in model.config.periodic.items():
        a = x[:, model.config.columns.index(name)]
        assert bool(((a >= 0) & (a <= period)).all())
    if case == "circle":
        at = torch.arange(0, 360, 0.1)[:, None]
        cumulative = (model.log_prob(at).exp().detach() * 0.1).cumsum(0)
        found = cumulative[(x[:, 0].sort().values / 0.1).long().clamp(max=3599)]
        uniform = (torch.arange(500) + 0.5) / 500
        assert float((found - uniform).abs().max()) < 0.1


@pytest.mark.parametrize("block", [ImpFlowTransform, ResFlowTransform])
def test_a_block_commutes_with_turns(block):
    torch.manual_seed(0)
    nets = [TorusNet(SandwichMLP(5, (8,)), [0, 2]) for _ in block.steps]
    t = block(*nets).double().eval()
    x = 10 * torch.randn(20, 3, dtype=torch.float64)
    turn = torch.tensor([TURN, 0.0, -2 * TURN], dtype=torch.float64)
    z, logabsdet = t(x)
    moved, same = t(x + turn)
    torch.testing.assert_close(moved, z + turn)
    torch.testing.assert_close(same, logabsdet)


def test_the_certificate_bounds_the_derivative_by_angles():
    model, _, _ = made(ImpFlow, "mixed")
    certificates = certify(model)
    assert len(certificates) == 2 * SIZES["blocks"]
    nets = [net for net in model.modules() if isinstance(net, TorusNet)]
    x = 5 * torch.randn(50, 3, dtype=torch.float64)
    for net, certificate in zip(nets, certificates, strict=True):
        assert certificate.bound <= 0.9 * (1 + 1e-6)
        rows = [torch.autograd.functional.jacobian(lambda r, n=net: n(r[None])[0], r) for r in x]
        steepest = torch.linalg.matrix_norm(torch.stack(rows), ord=2).max()
        assert float(steepest) <= certificate.bound * (1 + 1e-9)


def test_folded_and_called_nets_agree():
    net = TorusNet(SandwichMLP(4, (8,), context_features=1).double(), [1]).eval()
    x, c = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 1, dtype=torch.float64)
    folded = net.fold(c)
    torch.testing.assert_close(folded.value(x), net(x, c).detach())
    torch.testing.assert_close(Negated(folded).value(x), -net(x, c).detach())
    some = torch.tensor([4, 1])
    torch.testing.assert_close(folded.rows(some).value(x[some]), net(x, c)[some].detach())


def test_gradients_to_what_a_net_of_a_user_hides():
    factor = torch.tensor(0.3, requires_grad=True)

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return factor * torch.sin(x)

    z, logabsdet = ResFlowTransform(TorusNet(Net(), (0,)))(torch.randn(4, 2))
    assert z.requires_grad
    assert logabsdet.requires_grad


def test_hooks_of_a_torus_net_run_in_a_block():
    net, seen = TorusNet(SandwichMLP(3, (8,)), (0,)), []
    net.register_forward_hook(lambda *_: seen.append(1))
    ResFlowTransform(net).encode(torch.randn(4, 2))
    assert seen


@pytest.mark.parametrize("shape", [(4, 2, 3), (4, 5), (4, 1)], ids=str)
def test_rows_of_another_shape_are_refused(shape):
    block = ResFlowTransform(TorusNet(SandwichMLP(3, (8,)), (0,)))
    with pytest.raises(ValueError, match=r"this net takes \[B, 2\]"):
        block(torch.randn(shape))


def test_a_uniform_angle_is_what_a_standard_normal_comes_from():
    z = torch.randn(50, 2, dtype=torch.float64)
    angle, logabsdet = CircleToLine().inverse(z)
    normal = -0.5 * (z**2).sum(1) - math.log(TURN)
    torch.testing.assert_close(normal - logabsdet, torch.full_like(normal, -2 * math.log(TURN)))
    back, minus = CircleToLine()(angle + TURN)
    torch.testing.assert_close(back, z)
    torch.testing.assert_close(minus, -logabsdet)
    seam, _ = CircleToLine()(torch.zeros(1, 1))
    assert bool(seam.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_angles_are_scaled(dtype):
    x = torch.tensor([[-90.0, 5.0], [270.0, 5.0], [360.0, 5.0]], dtype=dtype)
    angle, logabsdet = Angles((360.0, 0.0))(x)
    expected = torch.tensor([[1.5 * math.pi, 5.0], [1.5 * math.pi, 5.0], [0.0, 5.0]], dtype=dtype)
    torch.testing.assert_close(angle, expected)
    torch.testing.assert_close(logabsdet, torch.full((3,), math.log(TURN / 360), dtype=dtype))


def test_a_cluster_at_the_seam_is_learned(tmp_path):
    torch.manual_seed(0)
    law = VonMises(torch.tensor(0.0), torch.tensor(8.0))
    degrees = law.sample((800,)) * 360 / TURN
    file = tmp_path / "train.csv"
    file.write_text("a\n" + "\n".join(f"{a:.6f}" for a in degrees.tolist()) + "\n")
    config = {"features": 1, "columns": ["a"], "periodic": {"a": 360}, "blocks": 2}
    recipe = write_recipe(
        tmp_path,
        config={**config, "hidden_features": [16, 16]},
        data={"dataset": str(file), "validation_rows": 200},
        training={"steps": 80, "batch_size": 128, "learning_rate": 0.01, "warmup_steps": 5},
    )
    training.train(recipe, out=tmp_path / "run", progress=False)
    model = create_model(tmp_path / "run", verify=True)
    result = evaluate(model, str(file), "train")
    best = float((law.log_prob(degrees * TURN / 360) + math.log(TURN / 360)).mean())
    assert best - 0.1 < result.value < best + 0.05
    assert result.round_trip < 1e-3


def test_samples_lie_within_the_turn_that_is_stated(tmp_path):
    settings = {"columns": ("a", "b"), "rounding": {"a": 0.5}, "blocks": 1, "hidden_features": (8,)}
    torch.manual_seed(0)
    plain = ImpFlow(TabularConfig(2, periodic={"a": 360}, **settings)).eval()
    turned = ImpFlow(TabularConfig(2, periodic={"a": (-180, 180)}, **settings)).eval()
    turned.load_state_dict(plain.state_dict())
    turned.save_pretrained(tmp_path / "turned")
    turned = create_model(tmp_path / "turned")
    x = torch.tensor([[-90.0, 1], [270, 1], [200, 0], [-180, 2], [180, 2]])
    torch.testing.assert_close(turned.log_prob(x), plain.log_prob(x))
    for rounded in (False, True):
        drawn, angles = (
            model.sample(500, generator=torch.Generator().manual_seed(0), rounded=rounded)
            for model in (turned, plain)
        )
        assert -180 <= float(drawn[:, 0].min()) < -170
        assert 170 < float(drawn[:, 0].max()) <= 180
        apart = (drawn - angles)[:, 0].remainder(360)
        assert float(torch.minimum(apart, 360 - apart).max()) < 1e-3
    with pytest.raises(ConfigError, match="periodic.a=.*, or .low, high. expected"):
        TabularConfig(2, periodic={"a": (180, -180)}, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"periodic": {"b": 1.0}}, "periodic: there is no column 'b'"),
        ({"periodic": {"a": 0.0}}, "periodic.a=0.0: a positive number, or"),
        ({"periodic": {"a": 1.0}, "bounds": {"a": (0, 1)}}, "columns without bounds expected"),
        ({"periodic": {"a": "day"}}, "config key 'periodic.a' is 'day': float expected"),
    ],
)
def test_periods_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        TabularConfig(1, columns=("a",), **settings)


def test_angles_have_no_temperature():
    model, _, _ = made(ImpFlow, "circle")
    with pytest.raises(ModelError, match="angles have no scale"):
        model.sample(3, temperature=0.5)
