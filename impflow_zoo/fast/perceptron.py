"""Perceptrons with one elementwise function throughout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from impflow_zoo.fast.elementwise import Elementwise
from impflow_zoo.fast.layers import Layers
from impflow_zoo.fast.tape import Tape, record
from impflow_zoo.lipschitz.bound_perceptron import BoundPerceptron
from impflow_zoo.numerics.linearize import Linearization

__all__ = ["FastPerceptron"]


class FastPerceptron(BoundPerceptron):
    """A perceptron that is evaluated in place and differentiated by hand.

    Autograd takes products with the Jacobian apart into some twenty passes over every feature map,
    each of which writes a new one. Here they are one matrix product and one or two passes per
    layer, over so few rows at a time that these stay in the cache.

    Arguments:
        functions, weights, biases: as in `BoundPerceptron`.
        derivatives: of the function, which is the same between all matrices.
    """

    def __init__(
        self,
        functions: Sequence[Callable[[Tensor], Tensor]],
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        derivatives: Elementwise,
    ) -> None:
        super().__init__(functions, weights, biases)
        self.derivatives = derivatives

    @cached_property
    def layers(self) -> Layers:
        """The numbers alone."""
        return Layers(self.derivatives, self.weights, self.biases)

    def value(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.layers(x)

    def linearize(self, x: Tensor, *, differentiable: bool = False) -> Linearization:
        if differentiable:
            return super().linearize(x, differentiable=True)
        x = x.clone() if x.is_inference() and not torch.is_inference_mode_enabled() else x
        return Tape(self, x, record(self.layers, x))

    def _with(self, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> FastPerceptron:
        return FastPerceptron(self.functions, weights, biases, self.derivatives)
