"""What the two blocks share: a residual map on the way in, the inverse of one on the way out."""

from __future__ import annotations

from typing import ClassVar

import torch
from nflows.transforms import Transform
from torch import Tensor, nn

from impflow_zoo.lipschitz.norms import held_weights
from impflow_zoo.numerics.implicit import ResidualMap
from impflow_zoo.numerics.logdet import LogDet
from impflow_zoo.numerics.solve import Solver

__all__ = ["ResidualBlock"]


class ResidualBlock(Transform):
    """`r_b^-1 . r_a` in one direction and `r_a^-1 . r_b` in the other, either map optional.

    Sub-classes list the names of their nets in `nets` and assign the nets under these names: the
    first one belongs to `r_a`, the second one, if any, to `r_b`.

    Contract: `forward` is data -> noise, `inverse` noise -> data; both take `[B, ...]` and return
    values of the same shape and log-determinants of shape `[B]`, in at least float32. A context
    has one row per input row. In evaluation mode a root that is not found raises `SolverError`;
    in training mode it warns with `NumericalWarning`.
    """

    nets: ClassVar[tuple[str, ...]]

    def __init__(self, logdet: str | LogDet, solver: Solver | None) -> None:
        super().__init__()
        self.logdet = LogDet.of(logdet)
        self.solver = solver or Solver()

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data -> noise.

        Arguments:
            inputs: points `x`, with shape `[B, ...]`.
            context: one context per row, or None.

        Returns:
            `z` with the shape of `x`, and `log|det dz/dx|` with shape `[B]`.

        Raises:
            SolverError: if a root is not found (evaluation mode).
            ValueError: for inputs that are not floating point, not finite, or of the wrong shape.
        """
        return self._with_logdet(inputs, context, *self._order())

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise -> data; arguments, results and errors as in `forward`."""
        return self._with_logdet(inputs, context, *reversed(self._order()))

    def encode(self, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        """`forward` without the log-determinant, which is not computed."""
        return self._value(inputs, context, *self._order())

    def decode(self, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        """`inverse` without the log-determinant, which is not computed."""
        return self._value(inputs, context, *reversed(self._order()))

    def _order(self) -> tuple[str | None, str | None]:
        names = (*self.nets, None)
        return names[0], names[1]

    def _map(self, name: str, context: Tensor | None) -> ResidualMap:
        net: nn.Module = getattr(self, name)
        return ResidualMap(
            net,
            context,
            solver=self.solver,
            logdet=self.logdet,
            training=self.training,
            kappa=_known_constant(net),
            salt=self.nets.index(name),
        )

    def _with_logdet(
        self, inputs: Tensor, context: Tensor | None, explicit: str | None, implicit: str | None
    ) -> tuple[Tensor, Tensor]:
        value, total = self._check(inputs, context), None
        with held_weights(*(getattr(self, name) for name in self.nets)):
            if explicit is not None:
                value, total = self._map(explicit, context).value_and_logdet(value)
            if implicit is not None:
                value, logdet = self._map(implicit, context).inverse_and_logdet(value)
                total = -logdet if total is None else total - logdet
        assert total is not None
        return value, total

    def _value(
        self, inputs: Tensor, context: Tensor | None, explicit: str | None, implicit: str | None
    ) -> Tensor:
        value = self._check(inputs, context)
        with held_weights(*(getattr(self, name) for name in self.nets)):
            if explicit is not None:
                value = self._map(explicit, context).value(value)
            if implicit is not None:
                value = self._map(implicit, context).inverse(value)
        return value

    def _check(self, inputs: Tensor, context: Tensor | None) -> Tensor:
        """The inputs, in at least float32; a `ValueError` if they or the context are no good."""
        if not inputs.is_floating_point():
            raise ValueError(
                f"inputs of type {inputs.dtype}: floating point is needed "
                "(images: dequantise to [0, 1] first)"
            )
        if inputs.dim() < 2:
            raise ValueError(f"inputs of shape {tuple(inputs.shape)}: rows are needed, [B, ...]")
        if context is not None and len(context) != len(inputs):
            raise ValueError(f"{len(context)} context rows for {len(inputs)} input rows")
        check_finite(inputs, "inputs")
        if context is not None:
            check_finite(context, "context")
        # A layer before this one answers in bfloat16 under autocast; roots need more than that.
        return inputs.to(torch.promote_types(inputs.dtype, torch.float32))


def check_finite(x: Tensor, name: str) -> None:
    """Refuse NaN and infinity, naming the rows.

    Raises:
        ValueError: if there are any.
    """
    if bool(torch.isfinite(x).all()):
        return
    rows = (~torch.isfinite(x.flatten(1)).all(dim=1)).nonzero()[:, 0].tolist()
    shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
    raise ValueError(f"{name} hold NaN or infinity in {len(rows)} of {len(x)} rows: {shown}")


def _known_constant(net: nn.Module) -> float | None:
    constant = getattr(net, "lipschitz", None)
    return float(constant) if isinstance(constant, (int, float)) else None
