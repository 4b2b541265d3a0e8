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

from impflow_zoo.lipschitz.folded_convolutions import FoldedConvolutions
from impflow_zoo.lipschitz.folded_layers import FoldedLayers
from impflow_zoo.lipschitz.folded_perceptron import FoldedPerceptron, PerceptronPoint

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

    def products(point: PerceptronPoint, seeds: Tensor, **options: Any) -> Any:
        counts.products += seeds.shape[1]
        return by_hand(point, seeds, **options)

    def traced(net: FoldedConvolutions, x: Tensor) -> Any:
        counts.evaluations += 1
        value, pullback = trace(net, x)

        def counted(v: Tensor) -> Tensor:
            counts.products += 1
            return pullback(v)

        return value, counted

    by_hand, trace = PerceptronPoint.products, FoldedConvolutions.trace
    others = [kind for kind in side.kinds if not hasattr(kind, "fold")]
    patches = [
        *((kind, "forward", evaluated(kind.forward)) for kind in others),
        (FoldedLayers, "forward", evaluated(FoldedLayers.forward)),
        (FoldedPerceptron, "linearize", evaluated(FoldedPerceptron.linearize)),
        (FoldedPerceptron, "value", evaluated(FoldedPerceptron.value)),
        (FoldedConvolutions, "value", evaluated(FoldedConvolutions.value)),
        (FoldedConvolutions, "trace", traced),
        (PerceptronPoint, "products", products),
        (torch.autograd, "grad", counted_grad),
        (Tensor, "backward", counted_backward),
    ]
    with ExitStack() as stack:
        for owner, name, value in patches:
            stack.enter_context(mock.patch.object(owner, name, value))
        yield counts
