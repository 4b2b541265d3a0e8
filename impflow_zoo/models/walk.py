"""Pass rows through a transform and its parts, with arguments that nflows lacks."""

from __future__ import annotations

from functools import partial
from typing import Any

from nflows.transforms import CompositeTransform, Transform
from torch import Tensor

from impflow_zoo.models.fields import ModelError
from impflow_zoo.numerics.compiled import not_compiled
from impflow_zoo.numerics.finite import blaming_weights
from impflow_zoo.numerics.modes import is_compiling, without_autocast
from impflow_zoo.transforms.base import ResidualBlock, all_compile
from impflow_zoo.transforms.images import Multiscale
from impflow_zoo.transforms.whole import WholeTransform

__all__ = ["walk"]


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
            seen = transform.seen(context, x)
            return transform.checked(*_walk_parts(transform, x, seen, options))
    if isinstance(transform, CompositeTransform):
        return _walk_parts(transform, x, context, options)
    backwards = options["backwards"]
    if isinstance(transform, Multiscale):
        through = partial(_walk, context=context, options=options)
        return (transform.merge if backwards else transform.split)(through, x)
    if isinstance(transform, ResidualBlock):
        return transform.run(x, context, **options)
    answer = (transform.inverse if backwards else transform)(x, context)
    return _checked(answer, x, type(transform).__name__)


def _checked(answer: Any, x: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """What a transform of another package answers to rows, refused if it is no answer."""
    parts = tuple(answer) if isinstance(answer, tuple | list) else (answer,)
    if len(parts) != 2 or not all(isinstance(part, Tensor) for part in parts):
        kinds = ", ".join(type(part).__name__ for part in parts)
        raise ModelError(
            f"{name} answers with {kinds}: two tensors are needed, rows and log-determinants"
        )
    value, logdet = parts
    if len(value) != len(x) or value.numel() != x.numel():
        shapes = f"{tuple(value.shape)} to inputs of shape {tuple(x.shape)}"
        raise ModelError(f"{name} answers with rows of shape {shapes}: as many numbers are needed")
    if logdet.shape != x.shape[:1]:  # a sum would spread it over rows
        shape = tuple(logdet.shape)
        raise ModelError(f"{name} has log-determinants of shape {shape}: [{len(x)}] is needed")
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
