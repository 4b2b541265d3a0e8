"""How often a side of the speed benchmark evaluates its nets, and multiplies by their Jacobians."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from cases import Side
from torch import Tensor

from impflow_zoo.fast.perceptron import FastPerceptron, Tape
from impflow_zoo.lipschitz.bound_layers import BoundLayers

__all__ = ["Counts", "counting"]


@dataclass
class Counts:
    """How often nets were evaluated, and products with their Jacobians taken."""

    evaluations: int = 0
    products: int = 0


@contextmanager
def counting(side: Side) -> Iterator[Counts]:
    """Count within the block; a batched product counts as many times as it has rows."""
    counts = Counts()
    grad, backward = torch.autograd.grad, Tensor.backward
    inside = False  # a backward pass, which may start others of single nets

    def counted_grad(outputs: Any, inputs: Any, grad_outputs: Any = None, **options: Any) -> Any:
        batched = options.get("is_grads_batched", False)
        counts.products += len(grad_outputs) if batched else 1
        return grad(outputs, inputs, grad_outputs, **options)

    def counted_backward(*arguments: Any, **options: Any) -> None:
        nonlocal inside
        counts.products += 1 if inside else len(side.nets)
        outer, inside = inside, True
        backward(*arguments, **options)
        inside = outer

    def evaluated(method: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            counts.evaluations += 1
            return method(*arguments, **options)

        return counted

    def products(tape: Tape, seeds: Tensor | None, **options: Any) -> Any:
        counts.products += tape.value.shape[1] if seeds is None else seeds.shape[1]
        return by_hand(tape, seeds, **options)

    by_hand = Tape.products
    others = [kind for kind in side.kinds if not hasattr(kind, "bind")]
    patches = [
        *((kind, "forward", evaluated(kind.forward)) for kind in others),
        (BoundLayers, "in_graph", evaluated(BoundLayers.in_graph)),
        (FastPerceptron, "record", evaluated(FastPerceptron.record)),
        (FastPerceptron, "value", evaluated(FastPerceptron.value)),
        (Tape, "products", products),
        (torch.autograd, "grad", counted_grad),
        (Tensor, "backward", counted_backward),
    ]
    with ExitStack() as stack:
        for owner, name, value in patches:
            stack.enter_context(mock.patch.object(owner, name, value))
        yield counts
