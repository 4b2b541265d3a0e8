"""Blocks and models in several threads at once: the same answers, and no setting left behind."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from support.small_models import make, rows
from torch import Tensor, nn

from impflow_zoo import (
    ImpFlow,
    ImpFlowTransform,
    LipschitzConvNet,
    LipschitzMLP,
    MonotoneTransform,
    ResFlowTransform,
    SandwichMLP,
)

THREADS = 4
Call = Callable[[], list[Tensor]]


class User(nn.Module):
    """A net whose parts are compiled; derivatives run as they are written."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(2, 8), nn.Linear(8, 2)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.2, 0.2)
        self.activation = torch.compile(nn.Tanh(), backend="eager")

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.activation(self.inner(x)))


BLOCKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "user": (lambda: ResFlowTransform(User(), "exact"), (2,)),
    "mlp": (lambda: ImpFlowTransform(LipschitzMLP(2, (8,)), SandwichMLP(2, (8,)), "exact"), (2,)),
    "monotone": (lambda: MonotoneTransform(SandwichMLP(2, (8,)), "truncated"), (2,)),
    "conv": (lambda: ResFlowTransform(LipschitzConvNet(1, (3, 3), 4), "truncated"), (1, 3, 3)),
}


def settings() -> list[Any]:
    """Those of the process that somebody could forget to put back."""
    return [
        torch._dynamo.eval_frame._stance,
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_rng_state().tolist(),
        np.geterr(),
    ]


def side_by_side(calls: list[Call]) -> list[list[Tensor]]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def check(calls: list[Call], tolerance: float = 1e-9) -> None:
    """Calls in threads answer as one after the other, and torch compiles as ever afterwards."""
    before = settings()
    together = side_by_side(calls)
    assert settings() == before
    for call, found in zip(calls, together, strict=True):
        for a, b in zip(call(), found, strict=True):
            torch.testing.assert_close(b, a, rtol=tolerance, atol=tolerance)
    torch._dynamo.reset()
    compiled = []

    def backend(graph: Any, _: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    torch.compile(lambda x: x + 1, backend=backend)(torch.zeros(1))
    assert compiled


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", BLOCKS)
def test_one_block_in_several_threads(name: str, training: bool) -> None:
    make_block, shape = BLOCKS[name]
    block = make_block().double().train(training)
    # Fresh in evaluation, where threads come to find its norms at once. In training the vectors of
    # convolutions go on from the last call, whose ever it was.
    tolerance = 1e-3 if training and name == "conv" else 1e-9

    def call(seed: int) -> list[Tensor]:
        x = torch.randn(6, *shape, generator=torch.Generator().manual_seed(seed)).double()
        z, logabsdet = block(x.requires_grad_())
        loss = z.square().sum() + logabsdet.sum() + block.decode(x).sum()
        return [z, logabsdet, *torch.autograd.grad(loss, [x, *block.parameters()])]

    if training:
        call(0)
    check([lambda seed=seed: call(seed) for seed in range(THREADS)], tolerance)


@pytest.mark.parametrize("name", BLOCKS)
def test_another_thread_may_compile_meanwhile(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch says to all threads that it compiles, while one of them does."""
    make_block, shape = BLOCKS[name]
    block, x = make_block().double(), torch.randn(3, *shape, dtype=torch.float64)
    expected = block(x)
    monkeypatch.setattr(torch.compiler, "_is_compiling_flag", True)
    for found, value in zip(block(x), expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-9, atol=1e-9)


def test_compiled_nets_are_within_their_graphs_at_once() -> None:
    """Each leaves while others are still there."""
    barrier = threading.Barrier(THREADS)

    class Meeting(User):
        def forward(self, x: Tensor) -> Tensor:
            if torch.is_grad_enabled() and threading.current_thread() is not main:
                barrier.wait(timeout=60)
            return super().forward(x)

    main, block = threading.current_thread(), ResFlowTransform(Meeting(), "exact")

    def call(number: int) -> list[Tensor]:
        return list(block(torch.full((5, 2), 0.1 * number)))

    check([lambda number=number: call(number) for number in range(THREADS)], 1e-6)


def test_models_in_several_threads() -> None:
    models = [make(ImpFlow, blocks=1).train(training) for training in (True, False)]
    x = rows(5)
    for model in models:
        model.log_prob(x)

    def call(number: int) -> list[Tensor]:
        model = models[number % 2]
        with torch.set_grad_enabled(number % 4 < 2):
            value = model.log_prob(x + number)
        if not value.requires_grad:
            return [value, model.decode(model.encode(x))]
        return [value, *torch.autograd.grad(value.sum(), list(model.parameters()))]

    check([lambda number=number: call(number) for number in range(THREADS)])


def test_copies_are_made_while_others_evaluate() -> None:
    net, x = SandwichMLP(2, (8,)).eval(), torch.randn(5, 2)

    def call(number: int) -> list[Tensor]:
        with torch.no_grad():
            return [(copy.deepcopy(net) if number % 2 else net)(x)]

    check([lambda number=number: call(number) for number in range(THREADS)])
