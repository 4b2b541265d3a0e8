"""The whole map of a model, which refuses rows that do not fit."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from nflows.transforms import CompositeTransform, Transform
from torch import Tensor

from impflow_zoo.numerics.compiled import not_compiled
from impflow_zoo.numerics.finite import blaming_weights, check_finite
from impflow_zoo.numerics.modes import is_compiling, seen, without_autocast
from impflow_zoo.transforms.base import all_compile

__all__ = ["WholeTransform"]


class WholeTransform(CompositeTransform):
    """A composite that refuses rows of another shape or type, and rows with NaN or infinity.

    In evaluation it refuses such results as well, naming a weight or the rows. Within
    `torch.autocast` it computes in the type of its parameters.

    Arguments:
        steps: the parts.
        shape: shape of one row of data. A row of noise is a vector of the same size.
    """

    def __init__(self, steps: Iterable[Transform], shape: tuple[int, ...]) -> None:
        super().__init__(list(steps))
        self.shape = tuple(shape)

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        _check(inputs, "inputs", self.shape)
        if is_compiling():
            if not all_compile(self, inputs):
                return self._as_written(WholeTransform.forward, inputs, context)
            return self.checked(*super().forward(inputs, self.seen(context)))
        with blaming_weights(self), without_autocast(inputs):
            return self.checked(*super().forward(inputs, self.seen(context)))

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        _check(inputs, "noise", (math.prod(self.shape),))
        if is_compiling():
            if not all_compile(self, inputs, backwards=True):
                return self._as_written(WholeTransform.inverse, inputs, context)
            return self.checked(*super().inverse(inputs, self.seen(context)))
        with blaming_weights(self), without_autocast(inputs):
            return self.checked(*super().inverse(inputs, self.seen(context)))

    def _as_written(self, method: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        """What a method answers that is not compiled."""
        answer: tuple[Tensor, Tensor] = not_compiled(method)(self, *arguments)
        return answer

    def seen(self, context: Tensor | None) -> Tensor | None:
        """What the parts are given for contexts, `[B, ...]`; for None, None."""
        return context

    def checked(self, outputs: Tensor, logabsdet: Tensor) -> tuple[Tensor, Tensor]:
        """Results, if they are finite; in training they may be anything.

        Raises:
            NotFiniteError: naming the rows.
        """
        total = outputs.detach().sum() + logabsdet.detach().sum()
        # Compiled code cannot ask.
        compiling = is_compiling()
        if not self.training and (compiling or not bool(seen(total[None]).isfinite().all())):
            why = f"numbers there are too large for {outputs.dtype}"
            check_finite(outputs, "results", why)
            check_finite(logabsdet, "log-determinants", why)
        return outputs, logabsdet


def _check(x: Any, name: str, shape: tuple[int, ...]) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} of type {type(x).__name__}: a torch tensor is needed")
    if x.shape[1:] != shape:
        expected = ", ".join(map(str, ("B", *shape)))
        raise ValueError(f"{name} of shape {tuple(x.shape)}: this model takes [{expected}]")
    if not x.is_floating_point():
        raise ValueError(f"{name} of type {x.dtype}: floating point is needed")
    check_finite(x, name)
