"""Nets, blocks and models under `torch.compile`: the same numbers as without.

Compiled nets find roots by compiled code, and derivatives as ever. Blocks run as they are written.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.blocks import BLOCKS as ALL_BLOCKS
from support.blocks import DIRECTIONS, IMAGE_BLOCKS
from support.dealt import crossed
from support.small_models import make as make_model
from support.small_models import rows
from torch import Tensor, nn
from torch._dynamo.backends.debugging import aot_eager

from impflow_zoo import (
    ImpFlow,
    ImpFlowTransform,
    LipschitzConvNet,
    LipschitzMLP,
    MonotoneFlow,
    ResFlow,
    ResFlowTransform,
    SandwichMLP,
    Solver,
)
from impflow_zoo.transforms.blocks import MonotoneTransform

NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "user": (lambda: User(), (2,)),
    "mlp": (lambda: LipschitzMLP(2, (16, 16), lipschitz=0.9), (2,)),
    "sandwich": (lambda: SandwichMLP(2, (16, 16), lipschitz=0.9), (2,)),
    "conv": (lambda: LipschitzConvNet(3, (4, 4), width=8), (3, 4, 4)),
}
BLOCKS: dict[str, Callable[..., nn.Module]] = {
    "impflow": lambda a, b, **options: ImpFlowTransform(a, b, **options),
    "resflow": lambda a, b, **options: ResFlowTransform(a, **options),
    "monotone": lambda a, b, **options: MonotoneTransform(a, **options),
}


class User(nn.Module):
    """A net of somebody else."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 8)
        self.outer = nn.Linear(8, 2)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(torch.tanh(self.inner(x)))


class Backend:
    """Compiles without a compiler, and counts; second derivatives fail as they do for all."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        compiled = aot_eager(graph, inputs)

        def counted(*arguments: Any) -> Any:
            self.calls += 1
            return compiled(*arguments)

        return counted


def wrapped(net: nn.Module, backend: Any) -> nn.Module:
    return torch.compile(net, backend=backend)


def in_place(net: nn.Module, backend: Any) -> nn.Module:
    net.compile(backend=backend)
    return net


def by_parts(net: nn.Module, backend: Any) -> nn.Module:
    net.inner = torch.compile(net.inner, backend=backend)
    net.outer.compile(backend=backend)
    return net


def by_method(net: nn.Module, backend: Any) -> nn.Module:
    net.forward = torch.compile(net.forward, backend=backend)
    return net


def by_class(net: nn.Module, backend: Any) -> nn.Module:
    class Decorated(type(net)):
        forward = torch.compile(type(net).forward, backend=backend)

    net.__class__ = Decorated
    return net


def everything(block: nn.Module, x: Tensor) -> list[Tensor]:
    """Both directions and all gradients."""
    torch.manual_seed(0)
    z, logabsdet = block(x)
    back, inverse = block.inverse(z.detach())
    loss = z.square().sum() + logabsdet.sum() + back.sum() + inverse.square().sum()
    return [z, logabsdet, back, *torch.autograd.grad(loss, list(block.parameters()))]


MODES = {"train": True, "eval": False}
WAYS = {
    f"{mode}-{compiled.__name__}": (training, compiled)
    for mode, training in MODES.items()
    for compiled in (wrapped, in_place)
}
PAIRS = {f"{net}-{name}": (net, name) for net in NETS for name in BLOCKS}


@pytest.mark.parametrize(("pair", "way"), crossed(PAIRS, WAYS))
def test_numbers_stay(pair: tuple[str, str], way: tuple[bool, Callable[..., nn.Module]]):
    torch._dynamo.reset()
    (net, name), (training, compiled) = pair, way
    make, shape = NETS[net]
    nets = [make().double() for _ in range(2)]
    x = torch.randn(5, *shape, dtype=torch.float64)
    options = {"logdet": "unbiased" if len(shape) > 1 else "exact"}
    plain = BLOCKS[name](*copy.deepcopy(nets), **options).train(training)
    backend = Backend()
    fast = BLOCKS[name](*(compiled(n, backend) for n in nets), **options).train(training)
    for a, b in zip(everything(plain, x), everything(fast, x), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-9)
    if net == "user":  # ours have bound forms
        assert backend.calls


@pytest.mark.filterwarnings("ignore::UserWarning")  # of the compiler itself
@pytest.mark.parametrize(
    ("net", "training"), crossed({net: net for net in ("mlp", "sandwich")}, MODES)
)
def test_a_compiled_net_alone_gives_the_same_numbers(net: str, training: bool):
    torch._dynamo.reset()
    make, shape = NETS[net]
    plain = make().double().train(training)
    x = torch.randn(5, *shape, dtype=torch.float64)
    state, backend = copy.deepcopy(plain.state_dict()), Backend()
    expected = [y := plain(x), *torch.autograd.grad(y.square().sum(), list(plain.parameters()))]
    plain.load_state_dict(state)  # training iterates norms
    y = torch.compile(plain, backend=backend)(x)
    found = [y, *torch.autograd.grad(y.square().sum(), list(plain.parameters()))]
    assert backend.calls
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("compiled", [by_parts, by_method, by_class])
def test_numbers_stay_where_parts_of_a_net_are_compiled(compiled, training: bool):
    torch._dynamo.reset()
    net, x, backend = User().double(), torch.randn(5, 2, dtype=torch.float64), Backend()
    plain = ResFlowTransform(copy.deepcopy(net), "exact").train(training)
    fast = ResFlowTransform(compiled(net, backend), "exact").train(training)
    for a, b in zip(everything(plain, x), everything(fast, x), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-9)
    assert backend.calls


slow = pytest.mark.slow
quiet = pytest.mark.filterwarnings(  # of the compiler itself
    "ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)


@quiet
@pytest.mark.parametrize(("name", "training"), crossed({name: name for name in BLOCKS}, MODES))
@pytest.mark.parametrize(
    ("net", "backend"),
    [("mlp", "eager"), *(pytest.param(net, "inductor", marks=slow) for net in NETS)],
)
def test_a_compiled_block_gives_the_same_numbers(name: str, net: str, training: bool, backend: str):
    torch._dynamo.reset()
    make, shape = NETS[net]
    options = {"logdet": "truncated" if len(shape) > 1 else "exact"}
    block = BLOCKS[name](make().double(), make().double(), **options).train(training)
    x = torch.randn(3, *shape, dtype=torch.float64)
    block(x)
    state = copy.deepcopy(block.state_dict())
    compiled = torch.compile(block, backend=backend)
    found = []
    for call in (block, compiled, lambda x: compiled(inputs=x, context=None)):
        block.load_state_dict(state)  # training iterates norms
        inputs = x.clone().requires_grad_()
        z, logabsdet = call(inputs)
        loss = z.square().sum() + logabsdet.sum()
        found.append([z, logabsdet, *torch.autograd.grad(loss, [inputs, *block.parameters()])])
    for others in found[1:]:
        for a, b in zip(found[0], others, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-9)


EVERY_BLOCK = {**ALL_BLOCKS, **IMAGE_BLOCKS}
TURNS = itertools.cycle(itertools.product(DIRECTIONS, MODES))


@slow
@quiet
@pytest.mark.parametrize(
    ("name", "direction", "mode"),
    [(name, *turn) for name, turn in zip(EVERY_BLOCK, TURNS, strict=False)],
)
def test_every_block_compiled_gives_the_same_numbers(name: str, direction: str, mode: str):
    case, training = EVERY_BLOCK[name], MODES[mode]
    torch._dynamo.reset()
    torch.manual_seed(0)
    block = case.build("exact").train(training)
    x, context = case.draw(3)
    call = getattr(block, direction)
    call(x, context)
    state = copy.deepcopy(block.state_dict())
    found = []
    for function in (call, torch.compile(call, backend="eager")):
        block.load_state_dict(state)  # training iterates norms
        inputs = x.clone().requires_grad_()
        value, logabsdet = function(inputs, context)
        loss = value.square().sum() + logabsdet.sum()
        tensors = [inputs, *block.parameters()]
        found.append([value, logabsdet, *torch.autograd.grad(loss, tensors, allow_unused=True)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-9)


KINDS = (ResFlow, ImpFlow, MonotoneFlow)


@quiet
@pytest.mark.parametrize(
    ("kind", "training", "backend"),
    [
        (ResFlow, True, "eager"),
        (ImpFlow, False, "eager"),
        *(
            pytest.param(kind, training, "inductor", marks=slow)
            for kind in KINDS
            for training in (True, False)
        ),
    ],
)
def test_a_compiled_model_gives_the_same_numbers(kind, training: bool, backend: str):
    torch._dynamo.reset()
    model = make_model(kind, blocks=1).train(training)
    x = rows(4)
    model.log_prob(x)
    noise = model.encode(x).detach()
    calls = [(model.log_prob, x), (model.transform, x), (model.transform.inverse, noise)]
    if backend != "eager":  # which takes a while to look at each of them
        calls += [(model.encode, x), (model.decode, noise)]
    for call, inputs in calls:
        found = []
        for function in (call, torch.compile(call, backend=backend)):
            values = function(inputs)
            values = values if isinstance(values, tuple) else (values,)
            loss = sum(value.square().sum() for value in values)
            gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
            found.append([*values, *(g for g in gradients if g is not None)])
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-9)


@quiet
@pytest.mark.parametrize(
    ("kind", "net", "most"),
    [
        (ResFlow, "sandwich", 0),
        (ResFlow, "spectral", 0),
        (ImpFlow, "spectral", 1),
        pytest.param(ImpFlow, "sandwich", 1, marks=slow),
        (MonotoneFlow, "sandwich", 1),
        pytest.param(MonotoneFlow, "spectral", 1, marks=slow),
    ],
)
def test_a_training_step_is_compiled_in_few_pieces(kind, net: str, most: int):
    """Blocks with roots run as they are written, all of a model at once."""
    torch._dynamo.reset()
    # Norms of narrow layers are found in another way than those of wide ones.
    model = make_model(kind, blocks=3, net=net, hidden_features=(16, 16)).train()
    x = rows(4)
    model.log_prob(x)  # layers that start from a first batch have started
    found = torch._dynamo.explain(model.log_prob)(x)
    assert found.graph_break_count <= most


REFUSED = "NaN or infinity.*neither compiled"


@quiet
def test_compiled_code_refuses_rows_that_are_not_finite():
    torch._dynamo.reset()
    model, x = make_model(ResFlow, blocks=1).train(), rows(4)
    compiled = torch.compile(model.log_prob, backend="eager")
    compiled(x)
    with pytest.raises(RuntimeError, match=REFUSED):
        compiled(x * torch.nan)


@slow
@quiet
def test_exported_code_refuses_rows_that_are_not_finite():
    model, x = make_model(ResFlow, blocks=1).eval(), rows(4)
    exported = torch.export.export(model, (x,), strict=True).module()
    with pytest.raises(RuntimeError, match=REFUSED):
        exported(x * torch.nan)


def test_a_solver_within_compiled_code_gives_the_same_numbers():
    torch._dynamo.reset()
    net, y = LipschitzMLP(2, (8,)).double().eval(), torch.randn(5, 2, dtype=torch.float64)

    def root(y: Tensor) -> Tensor:
        return Solver().solve(net, y).value

    found = torch.compile(root, backend="eager")(y)
    torch.testing.assert_close(found, root(y), rtol=1e-9, atol=1e-9)


class Halved(nn.Linear):
    """A net whose call is not its `forward` alone."""

    def __call__(self, x: Tensor) -> Tensor:
        return 0.5 * super().__call__(x)


def test_a_call_of_its_own_is_heeded():
    net = Halved(2, 2).double()
    torch.nn.init.orthogonal_(net.weight)
    block, x = ResFlowTransform(net), torch.randn(5, 2, dtype=torch.float64)
    z, _ = block(x)
    torch.testing.assert_close(z, x + net(x))
    torch.testing.assert_close(block.inverse(z.detach())[0], x)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler itself
@pytest.mark.parametrize("net", ["user", "conv"])
def test_numbers_stay_with_the_real_compiler(net: str):
    torch._dynamo.reset()
    make, shape = NETS[net]
    nets = [make() for _ in range(2)]
    x = torch.randn(5, *shape)
    plain = ImpFlowTransform(*copy.deepcopy(nets))
    fast = ImpFlowTransform(*map(torch.compile, nets))
    for a, b in zip(everything(plain, x), everything(fast, x), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-3)
