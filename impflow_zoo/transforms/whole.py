"""The whole map of a model, and the way of rows through its parts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from nflows.transforms import CompositeTransform, Transform
from torch import Tensor

from impflow_zoo.numerics.compiled import not_compiled
from impflow_zoo.numerics.finite import blaming_weights, check_finite
from impflow_zoo.numerics.modes import is_compiling, seen, without_autocast
from impflow_zoo.transforms.base import ResidualBlock, all_compile
from impflow_zoo.transforms.images import Multiscale

__all__ = ["WholeTransform", "walk"]


class WholeTransform(CompositeTransform):
    """A composite that refuses rows and contexts of another shape or type, NaN and infinity.

    In evaluation it refuses such results as well, naming a weight or the rows. Within
    `torch.autocast` it computes in the type of its parameters.

    Arguments:
        steps: the parts.
        shape: shape of one row of data. A row of noise is a vector of the same size.
        context_features: size of a context row, or None for a map without contexts.
    """

    def __init__(
        self,
        steps: Iterable[Transform],
        shape: tuple[int, ...],
        context_features: int | None = None,
    ) -> None:
        super().__init__(list(steps))
        self.shape, self.context_features = tuple(shape), context_features

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data -> noise.

        Arguments:
            inputs: rows `x` with shape `[B, *shape]`.
            context: one context per row, with shape `[B, context_features]`, or None.

        Returns:
            `z` with shape `[B, D]`, and `log|det dz/dx|` with shape `[B]`.

        Raises:
            TypeError: if inputs or context are no tensors.
            ValueError: for rows or contexts of another shape or type, for contexts of a map
                without, and for none of a map that takes them; further ones are those of the parts.
            NotFiniteError: for rows or contexts with NaN or infinity; in evaluation for such
                results, naming a weight or the rows.
            SolverError, NoContractionError: those of blocks among the parts.
        """
        inputs, context = self._entered(inputs, "inputs", self.shape, context)
        return walk(self, inputs, context)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise -> data.

        Arguments:
            inputs: rows `z` with shape `[B, D]`.
            context: one context per row, with shape `[B, context_features]`, or None.

        Returns:
            `x` with shape `[B, *shape]`, and `log|det dx/dz|` with shape `[B]`.

        Raises:
            TypeError, ValueError, NotFiniteError, SolverError, NoContractionError: as `forward`.
        """
        inputs, context = self._entered(inputs, "noise", (math.prod(self.shape),), context)
        return walk(self, inputs, context, backwards=True)

    def _entered(
        self, x: Any, name: str, shape: tuple[int, ...], context: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Rows in the type of the parameters, and their contexts, if all of them are numbers."""
        _check(x, name, shape)
        if context is not None:
            _require_tensor(context, "context")
            check_finite(context, "context")
        own = next((p.dtype for p in self.parameters()), x.dtype)
        if x.dtype != own:  # parts of nflows end in errors of torch's products
            x = x.to(torch.promote_types(x.dtype, torch.float32))
        if x.dtype != own:
            raise ValueError(
                f"{name} of type {x.dtype}, parameters of type {own}: convert either, by "
                f".to({own}) or .to({x.dtype})"
            )
        return x, context

    def embed(self, context: Tensor | None, rows: Tensor) -> Tensor | None:
        """What the parts are given for the contexts of rows.

        Arguments:
            context: one context per row, with shape `[B, context_features]`, or None.
            rows: with shape `[B, ...]`.

        Returns:
            A tensor with shape `[B, ...]`; None for a map without contexts.

        Raises:
            ValueError: if contexts are missing, have another shape or type, or are given to a map
                that takes none. Layers of nflows would answer, for zeros or broadcast contexts.
        """
        size, number = self.context_features, len(rows)
        if size is None and context is not None:
            raise ValueError("a context was given, but this model is unconditional")
        if size is None:
            return None
        if context is None:
            raise ValueError(f"this model needs a context of shape [B, {size}]")
        if context.shape != (number, size) or context.dtype != rows.dtype:
            raise ValueError(
                f"context of shape {tuple(context.shape)} and type {context.dtype}: for {number} "
                f"rows [{number}, {size}] of type {rows.dtype} is needed"
            )
        return self.embedded(context)

    def embedded(self, context: Tensor) -> Tensor:
        """What the parts are given for contexts of the right shape.

        Arguments:
            context: one context per row, with shape `[B, context_features]`.

        Returns:
            A tensor with shape `[B, ...]`. This class returns the contexts as they are.
        """
        return context

    def checked(self, outputs: Tensor, logabsdet: Tensor) -> tuple[Tensor, Tensor]:
        """Results, if they are finite; in training they may be anything.

        Arguments:
            outputs, logabsdet: of the parts, with shapes `[B, ...]` and `[B]`.

        Returns:
            Both, as they are.

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


def walk(
    transform: Transform,
    x: Tensor,
    context: Tensor | None = None,
    *,
    backwards: bool = False,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """The transformed rows, `[B, ...]`, and the log-determinants, `[B]`; autocast rounds neither.

    A `WholeTransform` refuses results with NaN or infinity, as when it is called.

    Arguments:
        transform: the transform; a composite is walked through part by part.
        x: the rows.
        context: one context per row, or None.
        backwards: noise -> data.
        options: of blocks of ours, as in `ResidualBlock.run`. Zeros stand for log-determinants that
            are not computed.

    Raises:
        ValueError: if a part answers with something else than rows of as many numbers and
            log-determinants `[B]`; further errors are those of the parts.
    """
    options["backwards"] = backwards
    if is_compiling() and not all_compile(transform, x, **options):
        as_written: Any = not_compiled(walk)
        answer: tuple[Tensor, Tensor] = as_written(transform, x, context, **options)
        return answer
    with without_autocast(x):
        return _walk(transform, x, context, options)


def _walk(
    transform: Transform, x: Tensor, context: Tensor | None, options: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    if isinstance(transform, WholeTransform):
        with blaming_weights(transform):
            embedded = transform.embed(context, x)
            return transform.checked(*_walk_parts(transform, x, embedded, options))
    if isinstance(transform, CompositeTransform):
        return _walk_parts(transform, x, context, options)
    backwards = options["backwards"]
    if isinstance(transform, Multiscale):
        through = partial(_walk, context=context, options=options)
        return (transform.merge if backwards else transform.split)(through, x)
    # Without options of its own a block is called as any part is: then its hooks run.
    if isinstance(transform, ResidualBlock) and options.keys() != {"backwards"}:
        return transform.run(x, context, **options)
    answer = (transform.inverse if backwards else transform)(x, context)
    return _checked_answer(answer, x, type(transform).__name__)


def _checked_answer(answer: Any, x: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """What a transform of another package answers to rows, refused if it is no answer."""
    parts = tuple(answer) if isinstance(answer, tuple | list) else (answer,)
    if len(parts) != 2 or not all(isinstance(part, Tensor) for part in parts):
        kinds = ", ".join(type(part).__name__ for part in parts)
        raise ValueError(
            f"{name} answers with {kinds}: two tensors are needed, rows and log-determinants"
        )
    value, logdet = parts
    if value.shape[:1] != x.shape[:1] or value.numel() != x.numel():
        shapes = f"{tuple(value.shape)} to inputs of shape {tuple(x.shape)}"
        raise ValueError(f"{name} answers with rows of shape {shapes}: as many numbers are needed")
    if logdet.shape != x.shape[:1]:  # a sum would spread it over rows
        shape = tuple(logdet.shape)
        raise ValueError(f"{name} has log-determinants of shape {shape}: [{len(x)}] is needed")
    return value, logdet


def _walk_parts(
    transform: CompositeTransform, x: Tensor, context: Tensor | None, options: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Through a composite part by part."""
    parts, *_ = transform.children()  # nflows keeps them in its first child, a list
    total = x.new_zeros(len(x))
    for part in reversed(list(parts.children())) if options["backwards"] else parts.children():
        x, logdet = _walk(part, x, context, options)
        total = total + logdet
    return x, total


def _check(x: Any, name: str, shape: tuple[int, ...]) -> None:
    _require_tensor(x, name)
    if x.shape[1:] != shape:
        expected = ", ".join(map(str, ("B", *shape)))
        raise ValueError(f"{name} of shape {tuple(x.shape)}: this model takes [{expected}]")
    if not x.is_floating_point():
        raise ValueError(f"{name} of type {x.dtype}: floating point is needed")
    check_finite(x, name)


def _require_tensor(x: Any, name: str) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} of type {type(x).__name__}: a torch tensor is needed")
