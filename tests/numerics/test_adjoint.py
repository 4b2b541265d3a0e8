"""The implicit derivative: against unrolled iterations, scales of the loss, one graph per point."""

from __future__ import annotations

import pytest
import torch
from support.blocks import BLOCKS, DIRECTIONS, build, draw, values
from torch import nn

from impflow_zoo import (
    ImpFlowTransform,
    LipschitzMLP,
    LogDet,
    NumericalWarning,
    ResFlowTransform,
    Solver,
    SolverError,
)
from impflow_zoo.numerics import adjoint
from impflow_zoo.numerics.folded import FoldedModule, fold
from impflow_zoo.numerics.residual import ResidualMap
from impflow_zoo.transforms.blocks import MonotoneTransform

every_direction = pytest.mark.parametrize("direction", DIRECTIONS)
ITERATIONS = 150  # 0.8^150 is 3e-15


def unrolled(block, direction, x, context):
    """The values of a direction by plain iteration under autograd."""
    forward = direction == "forward"
    for step in block.steps if forward else block.steps[::-1]:
        net, y = fold(getattr(block, step.net), context), x
        if step.inverted == forward:
            for _ in range(ITERATIONS):
                x = y - step.sign * net.forward(x)
        else:
            x = y + step.sign * net.forward(y)
    return x


@pytest.mark.parametrize("name", BLOCKS)
@every_direction
def test_implicit_and_unrolled_gradients_agree(name, direction):
    block = build(name)
    x, context = draw(name, 3)
    x.requires_grad_()
    tensors = [x, *block.parameters()]
    if context is not None:
        tensors.append(context.requires_grad_())
    weights = torch.randn_like(x)
    pairs = zip(
        *(
            torch.autograd.grad((weights * f(x, context)).sum(), tensors, materialize_grads=True)
            for f in (values(block, direction), lambda *a: unrolled(block, direction, *a))
        ),
        strict=True,
    )
    for ours, loop in pairs:
        torch.testing.assert_close(ours, loop, rtol=1e-9, atol=1e-11)


def block_of(features, dtype, **solver):
    nets = [LipschitzMLP(features, (16,), "sin", 0.9) for _ in range(2)]
    return ImpFlowTransform(*nets, logdet="exact", solver=Solver(**solver)).to(dtype)


@pytest.mark.parametrize("features", [2, 24], ids=["dense", "krylov"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_the_scale_of_the_loss_does_not_turn_the_gradient(features, training, scale, dtype):
    block = block_of(features, dtype)
    block.logdet = LogDet("truncated", n_terms=2)  # leaves no dense Jacobian to reuse
    x = torch.randn(5, features, dtype=dtype, requires_grad=True)
    weights = torch.randn_like(x)
    block(x)
    block.train(training)
    state = {k: v.clone() for k, v in block.state_dict().items()}

    def gradients(factor):
        block.load_state_dict(state)  # the same power vectors
        loss = (factor * weights * block.encode(x)).sum()
        return torch.autograd.grad(loss, [x, block.net_z.layers[0].weight])

    for once, scaled in zip(gradients(1.0), gradients(scale), strict=True):
        assert (scaled / scale - once).norm() <= 1e-5 * once.norm()


@pytest.mark.parametrize("features", [2, 24], ids=["dense", "krylov"])
@pytest.mark.parametrize("rtol", [1e-1, 1e-4, 1e-10])
def test_the_backward_tolerance_is_kept(features, rtol):
    """The linear system behind the derivative is solved to the relative tolerance asked for."""
    net = nn.Linear(features, features).double()
    with torch.no_grad():
        net.weight.mul_(0.9 / torch.linalg.matrix_norm(net.weight, 2))
    block = ResFlowTransform(net, solver=Solver(backward_rtol=rtol)).eval()
    y = torch.randn(6, features, dtype=torch.float64, requires_grad=True)
    target = torch.randn_like(y)
    (u,) = torch.autograd.grad((target * block.decode(y)).sum(), y)
    residual = (target - u - u @ net.weight).norm(dim=1) / target.norm(dim=1)
    assert (residual <= rtol).all()
    if features > 8 and rtol > 1e-8:
        assert residual.max() > 1e-3 * rtol  # and not much further


def test_a_derivative_that_does_not_converge(monkeypatch):
    """One Krylov space of sixty vectors is too small for a rotation of a hundred features.

    With so few features dense Jacobians would do.
    """
    monkeypatch.setattr(adjoint, "MAX_RESTARTS", 0)
    monkeypatch.setattr(adjoint, "DENSE", 50)
    features = 100
    net = nn.Linear(features, features, bias=False).double()
    with torch.no_grad():
        net.weight.copy_(0.999 * torch.linalg.qr(torch.randn_like(net.weight))[0])
    block = ResFlowTransform(net)
    target = torch.randn(2, features, dtype=torch.float64)
    y = torch.zeros_like(target, requires_grad=True)
    message = (
        r"implicit derivative of 2 of 2 rows did not converge.*"
        r"1.00e-12 after 60 products.*backward_rtol="
    )
    sample = block.eval().decode(y)
    with pytest.raises(SolverError, match=message):
        sample.backward(target)
    sample = block.train().decode(y)
    with pytest.warns(NumericalWarning, match=message):
        sample.backward(target)


REFUSED = {
    "implicit root": (ImpFlowTransform, "exact", "encode"),
    "implicit root and log-det": (ImpFlowTransform, "truncated", "forward"),
    "inverse": (ResFlowTransform, "exact", "decode"),
    "inverse and log-det": (ResFlowTransform, "unbiased", "inverse"),
    "unbiased log-det": (ResFlowTransform, "unbiased", "forward"),
    "roulette": (ResFlowTransform, LogDet("unbiased", series="roulette"), "forward"),
}


@pytest.mark.parametrize(("kind", "logdet", "method"), REFUSED.values(), ids=REFUSED)
def test_a_second_derivative_is_refused(kind, logdet, method):
    """A sum gives the backward pass a constant, which hides the mistake from autograd itself."""
    nets = [LipschitzMLP(3, (6,), "sin", 0.8) for _ in range(len(kind.steps))]
    block = kind(*nets, logdet=logdet).double()
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    result = getattr(block, method)(x)
    loss = (x**3).sum() + (result if torch.is_tensor(result) else result[1]).sum()
    with pytest.raises(RuntimeError, match="this derivative cannot be differentiated again"):
        torch.autograd.grad(loss, x, create_graph=True)


@pytest.mark.parametrize("logdet", ["exact", LogDet("truncated", n_terms=5)], ids=str)
def test_second_derivatives_of_the_residual_direction(logdet):
    block = build("resflow-sin", logdet)
    x, _ = draw("resflow-sin", 2)
    assert torch.autograd.gradgradcheck(lambda x: block(x)[1], (x.requires_grad_(),))


class Counting(nn.Module):
    """A net that counts its evaluations with and without a graph."""

    def __init__(self, net):
        super().__init__()
        self.net, self.graphs, self.calls = net, 0, 0

    def forward(self, x):
        self.calls += 1
        self.graphs += torch.is_grad_enabled()
        return self.net(x)


@pytest.mark.parametrize("logdet", ["exact", "unbiased", "truncated"])
@pytest.mark.parametrize("features", [4, 16])
def test_few_graphs_per_evaluation_point(logdet, features):
    """One at `x`, for value and log-determinant; two at the root, for its derivative and for the
    log-determinant there."""
    net_x, net_z = (Counting(LipschitzMLP(features, (8,), "sin", 0.5)) for _ in range(2))
    block = ImpFlowTransform(net_x, net_z, logdet, Solver("fixed_point")).double().eval()
    x = torch.randn(3, features, dtype=torch.float64, requires_grad=True)
    z, logabsdet = block(x)
    assert net_x.calls == net_x.graphs == 1
    assert net_z.graphs == 2
    calls = net_z.calls
    (z.sum() + logabsdet.sum()).backward()
    assert net_x.calls == 1
    assert net_z.calls == calls


@every_direction
def test_backward_may_run_twice_and_in_parts(direction):
    block = build("impflow-lipswish")
    x, _ = draw("impflow-lipswish")
    x.requires_grad_()
    z, logabsdet = getattr(block, direction)(x)
    parts = [
        torch.autograd.grad(part, x, retain_graph=True)[0] for part in (z.sum(), logabsdet.sum())
    ]
    whole = torch.autograd.grad(z.sum() + logabsdet.sum(), x, retain_graph=True)[0]
    again = torch.autograd.grad(z.sum() + logabsdet.sum(), x)[0]
    torch.testing.assert_close(parts[0] + parts[1], whole, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(whole, again, rtol=1e-12, atol=0)


@every_direction
def test_gradients_reach_what_stands_before_the_block(direction):
    """Inputs and contexts that are not leaves hand their gradients on."""
    block = build("impflow-elu-context")
    x, context = draw("impflow-elu-context")
    before, embedding = nn.Linear(3, 3).double(), nn.Linear(2, 2).double()
    z, logabsdet = getattr(block, direction)(before(x), embedding(context))
    (z.sum() + logabsdet.sum()).backward()
    for p in (*before.parameters(), *embedding.parameters()):
        assert p.grad is not None
        assert p.grad.abs().sum() > 0


def test_tensors_a_net_does_not_register_get_gradients():
    """A closure over a leaf is seen in the graph itself."""
    scale = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    y = torch.randn(4, 3, dtype=torch.float64)
    root = ResidualMap(FoldedModule(lambda w: scale * w)).inverse(y)
    (grad,) = torch.autograd.grad(root.sum(), scale)
    torch.testing.assert_close(grad, (-y / 1.5**2).sum())


def test_a_parameter_changed_between_the_passes_is_noticed():
    """The graph at the root would give the gradient of neither net."""
    block = build("resflow-user")
    x, _ = draw("resflow-user")
    sample = block.decode(x)
    with torch.no_grad():
        block.net.linear.weight.mul_(0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        sample.sum().backward()


def test_a_map_on_its_own():
    """`ResidualMap` gives value, inverse and log-determinants of any function."""
    x = torch.randn(4, 3, dtype=torch.float64)
    r = ResidualMap(FoldedModule(lambda w: 0.5 * w))
    assert torch.equal(r.value(x), 1.5 * x)
    y, there = r.value_and_logdet(x)
    w, here = r.inverse_and_logdet(y)
    torch.testing.assert_close(w, x)
    torch.testing.assert_close(r.inverse(y), x)
    expected = 3 * torch.full((4,), 1.5, dtype=torch.float64).log()
    torch.testing.assert_close(there, expected)
    torch.testing.assert_close(here, expected)


@pytest.mark.parametrize("activation", ["sin", "elu"])
@pytest.mark.parametrize("make", [ImpFlowTransform, MonotoneTransform, ResFlowTransform])
@every_direction
def test_parameters_that_are_computed_get_whole_gradients(make, activation, direction):
    """Those of a hypernetwork, say: asked for themselves, and for what is behind them."""
    nets = [LipschitzMLP(3, (8,), activation, 0.9) for _ in range(2 if "Imp" in str(make) else 1)]
    block, x = make(*nets, logdet="exact").double().eval(), torch.randn(4, 3).double()
    leaf = {k: p.detach().clone().requires_grad_() for k, p in block.named_parameters()}
    computed = {k: 1.0 * p for k, p in leaf.items()}
    run = block if direction == "forward" else block.inverse

    def loss(parameters):
        with torch.nn.utils.stateless._reparametrize_module(block, parameters):
            value, logdet = run(x)
        return value.sin().sum() + logdet.sum()

    expected = torch.autograd.grad(loss(leaf), list(leaf.values()), allow_unused=True)
    for asked in (computed, leaf):
        found = torch.autograd.grad(
            loss(computed), list(asked.values()), retain_graph=True, allow_unused=True
        )
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("logdet", ["exact", "unbiased"])
@every_direction
def test_hooks_of_parameters_see_whole_gradients_once(direction, logdet):
    block = ImpFlowTransform(
        *(LipschitzMLP(3, (16, 16)) for _ in range(2)), logdet=LogDet(logdet, seed=1)
    )
    block.double().eval()
    x = torch.randn(4, 3, dtype=torch.float64)

    def gradients() -> list[torch.Tensor]:
        torch.manual_seed(0)
        z, logabsdet = getattr(block, direction)(x)
        block.zero_grad()
        (z.sin().sum() + logabsdet.sum()).backward()
        return [p.grad.clone() for p in block.parameters()]

    plain, seen, together = gradients(), [], []
    parameters = list(block.parameters())
    for p in parameters:
        p.register_hook(lambda grad: seen.append(grad) or 3 * grad)
    torch.autograd.graph.register_multi_grad_hook(parameters, together.append)
    for _ in range(2):
        for hooked, grad in zip(gradients(), plain, strict=True):
            assert torch.allclose(hooked, 3 * grad, rtol=1e-12)
    assert len(seen) == 2 * len(parameters)
    assert len(together) == 2


def test_hooks_see_whole_second_derivatives_once():
    block = ResFlowTransform(LipschitzMLP(3, (16, 16)), logdet="exact").double().eval()
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)

    def gradients() -> list[torch.Tensor]:
        block.zero_grad()
        z, logabsdet = block(x)
        (slope,) = torch.autograd.grad(z.sin().sum() + logabsdet.sum(), x, create_graph=True)
        slope.square().sum().backward()
        return [p.grad.clone() for p in block.parameters() if p.grad is not None]

    plain, seen = gradients(), []
    for p in block.parameters():
        p.register_hook(lambda grad: seen.append(grad) or 3 * grad)
    for hooked, grad in zip(gradients(), plain, strict=True):
        assert torch.allclose(hooked, 3 * grad, rtol=1e-12)
    assert len(seen) == len(plain)
