"""The equation `w + sign g(w) = y` that a root solves, evaluated in float64 to bound its error.

With `Lip(g) <= kappa < 1` the error of `w` is at most `|y - w - sign g(w)| / (1 - kappa)`, in exact
arithmetic: see `Solution.error_bound`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from impflow_zoo.numerics.modes import grad_mode, without_autocast
from impflow_zoo.numerics.rows import wide_norm

__all__ = ["Equation"]

_SAFETY = 16.0  # how many times larger the rounding of float64 may be than that of float32 predicts


@dataclass(frozen=True)
class Equation:
    """The equation `w + sign g(w) = y`, row by row.

    Arguments:
        net: `g`, a module or a function, called as `net(w)`, or as `net(w, context)`.
        y: right-hand sides, with shape `[B, ...]`.
        context: one context per row, or None.
        sign: 1 or -1.
    """

    net: Callable[..., Tensor]
    y: Tensor
    context: Tensor | None = None
    sign: int = 1

    @grad_mode(enabled=False)
    def residual_bound(self, w: Tensor) -> Tensor:
        """A bound on `|y - w - sign g(w)|` in exact arithmetic.

        `g` is the net in evaluation mode, with its parameters as they are stored now.

        Arguments:
            w: points, with the shape of `y`.

        Returns:
            One number per row, `[B]`, in float64.

        Raises:
            ValueError: if the net cannot be evaluated in float64 or in float32.
        """
        # A search sees the residual through the rounding of its type: of the weights as they are
        # normalised, of every layer, and of the difference, where almost all digits cancel. It may
        # see 0 where the residual is 1e-6, and no constant times eps bounds this: in nets with
        # large weights rounding is 2,000 times eps (|y| + |w| + |g|). So the residual is computed
        # again in float64, from the stored parameters.
        #
        # The rounding of float64 is left, 2^-29 times that of float32 for the same operations. It
        # is predicted from the rounding of float32: the difference between both values of the net
        # at the same point, and eps (|y| + |w| + |g|) for the sum.
        y, wide = self.y.double(), w.double()
        value = self._value(wide)
        near = w.float()
        same = value if torch.equal(near.double(), wide) else self._value(near.double())
        rounding = wide_norm(self._value(near).double() - same)
        size = wide_norm(y) + wide_norm(wide) + wide_norm(value)
        rounding = torch.finfo(torch.float64).eps * (
            rounding / torch.finfo(torch.float32).eps + size
        )
        bound = wide_norm(y - wide - value) + _SAFETY * rounding
        return bound.nan_to_num(torch.inf, torch.inf)

    def _value(self, w: Tensor) -> Tensor:
        """`sign g(w)` in the type of `w`."""
        context = () if self.context is None else (self.context.to(w.dtype),)
        try:
            net = self.net
            if isinstance(net, nn.Module):
                net = copy.deepcopy(net).to(w.dtype).eval()
            with without_autocast(w):
                value = net(w, *context)
            if value.dtype != w.dtype:
                raise RuntimeError(f"it answers in {value.dtype}")
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"an error bound needs the net in {w.dtype}, where it cannot be evaluated: {reason}"
            ) from error
        return self.sign * value
