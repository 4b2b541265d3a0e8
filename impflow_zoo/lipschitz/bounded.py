"""What nets with a bounded Lipschitz constant share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from impflow_zoo.lipschitz.activations import watched
from impflow_zoo.lipschitz.norms import LipschitzLayer
from impflow_zoo.numerics.settings import is_real, is_whole

__all__ = ["BoundedNet", "check_sizes"]


class BoundedNet(nn.Module):
    """Layers of bounded norm with an activation between them.

    Contexts go through linear maps and are added before each activation. Sub-classes make
    `activations`, `layers` and `context_layers`.

    Arguments:
        lipschitz: bound of the Lipschitz constant.
        context_features: size of a context row, or None.

    Attributes:
        lipschitz: the bound in the 2-norm; None if none is known in advance.

    Raises:
        ValueError: if the bound is no positive number, or the size no whole number.
    """

    forwards: ClassVar[tuple[Callable[..., Any], ...]]  # that the layers may have
    activations: nn.ModuleList
    layers: nn.ModuleList
    context_layers: nn.ModuleList
    lipschitz: float | None

    def __init__(self, lipschitz: float, context_features: int | None) -> None:
        super().__init__()
        if not (is_real(lipschitz) and 0 < lipschitz < math.inf):
            raise ValueError(f"lipschitz={lipschitz!r}: a positive number is needed")
        if not (context_features is None or (is_whole(context_features) and context_features >= 0)):
            raise ValueError(f"context_features={context_features!r}: a size or None is needed")
        self.lipschitz, self.context_features = float(lipschitz), context_features

    def contexts(self, widths: Sequence[int]) -> nn.ModuleList:
        """Linear maps of a context to vectors of some sizes, if the net has one."""
        size = self.context_features
        return nn.ModuleList(nn.Linear(size, width) for width in widths if size)

    def added(self, i: int, context: Tensor | None) -> Tensor | None:
        """What a context adds before activation `i`, one vector for each row, or None."""
        if not self.context_features or context is None:
            return None
        vectors: Tensor = self.context_layers[i](context)
        return vectors

    def check_context(self, context: Tensor | None, rows: int | None = None) -> None:
        """Refuse a context that the net cannot take.

        Arguments:
            context: the context, or None.
            rows: how many rows it has to have; None takes any number.

        Raises:
            ValueError: if it is missing, or has another shape or no floating type.
        """
        size = self.context_features
        if not size:
            return
        if context is None:
            raise ValueError(f"this net needs a context of shape [B, {size}]")
        rows = len(context) if rows is None else rows
        if context.shape != (rows, size):
            raise ValueError(
                f"context of shape {tuple(context.shape)}: for {rows} rows this net takes "
                f"[{rows}, {size}]"
            )
        if not context.is_floating_point():
            raise ValueError(f"context of type {context.dtype}: floating point is needed")

    def bounded_layers(self) -> list[LipschitzLayer]:
        """The layers."""
        return cast(list[LipschitzLayer], list(self.layers))

    def is_plain(self) -> bool:
        """Whether nothing but code of this package runs in the net."""
        known = self.forwards
        ours = (isinstance(a, LipschitzLayer) and type(a).forward in known for a in self.layers)
        return all(ours) and not any(watched(module) for module in self.modules())

    def certificate(self) -> float | None:
        """Upper bound of the Lipschitz constant of the net as it is, in the 2-norm."""
        return math.prod(layer.norm_bound() for layer in self.bounded_layers())


def check_sizes(**sizes: object) -> None:
    """Refuse sizes, or tuples of them, that are not whole and positive.

    Raises:
        ValueError: naming all of them.
    """
    for size in sizes.values():
        each = size if isinstance(size, tuple) else (size,)
        if not all(is_whole(n) and n >= 1 for n in each):
            given = ", ".join(f"{name}={value!r}" for name, value in sizes.items())
            raise ValueError(f"{given}: positive sizes are needed")
