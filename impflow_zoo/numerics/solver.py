"""Root finding for residual maps, row by row: solve `w + g(w) = y` for `w`.

For `Lip(g) <= kappa < 1` the map `w -> y - g(w)` is a contraction, so there is one root, and plain
iteration from anywhere comes closer to it by `kappa` in each step. Other methods need fewer steps.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from impflow_zoo.numerics.compiled import uncompiled
from impflow_zoo.numerics.equation import Equation
from impflow_zoo.numerics.folded import FoldedModule, FoldedNet, Net
from impflow_zoo.numerics.methods import METHODS
from impflow_zoo.numerics.modes import grad_mode, seen
from impflow_zoo.numerics.rows import wide_norm
from impflow_zoo.numerics.search import Leg, Status, find_roots
from impflow_zoo.numerics.settings import is_real, is_whole

__all__ = ["NumericalWarning", "Solution", "Solver", "SolverError"]

FEW_FEATURES = 8  # up to here secants soon span the space, and dense systems are cheap
_MOST_STEPS = 1_000_000
DENSE = 512  # features up to which dense Jacobians are the last resort, of roots and derivatives


class SolverError(RuntimeError):
    """A root, or the linear system behind its derivative, was not found to tolerance."""


class NumericalWarning(UserWarning):
    """A result is less accurate than asked for; training goes on."""


@dataclass(frozen=True)
class Solution:
    """The roots of a batch and the status of each.

    Arguments:
        value: best iterates, with the shape of `y`.
        residual: `|y - w - g(w)|` of each row as the search saw it, rounding included, `[B]`.
        steps: network evaluations spent on each row, `[B]`.
        status: members of `Status` as integers, `[B]`.
        tolerance: the residual asked for, `[B]`.
        kappa: Lipschitz constant of `g` in the 2-norm, or None if it is not known.
        max_steps: the largest budget of a method, for the message.
        equation: what `value` solves, for the error bound; None if only the folded net is known.
    """

    value: Tensor
    residual: Tensor
    steps: Tensor
    status: Tensor
    tolerance: Tensor
    kappa: float | None = None
    max_steps: int = field(default=0, repr=False)
    equation: Equation | None = field(default=None, repr=False)

    @property
    def converged(self) -> Tensor:
        """Mask of the rows that were solved, `[B]`."""
        return self.status <= Status.ROUNDING_FLOOR

    @property
    def error_bound(self) -> Tensor | None:
        """Bound on the distance of each row to the true root, `[B]`, in float64, if known.

        It covers rounding: the true root is that of exact arithmetic, of the net in evaluation mode
        with its parameters as they are stored. Up to the rounding of float64 the bound is at most
        `(1 + kappa) / (1 - kappa)` times the error. In the models of the zoo it is 32 times the
        error in the median where `kappa` is 0.97, and 100 times where it is 0.99.

        The net is evaluated in float64 when the bound is asked for: ask before you change its
        parameters. None if `kappa` is not known or not below 1.

        Raises:
            ValueError: if the net cannot be evaluated in float64.
        """
        # Let r(w) = w + g(w) and r(root) = y. As g contracts by kappa, the residual at w is
        #     |y - r(w)| = |r(root) - r(w)| >= |root - w| - |g(root) - g(w)|
        #                                   >= (1 - kappa) |root - w|,
        # and at most (1 + kappa) |root - w|. This holds in exact arithmetic: `residual` is off by
        # its rounding, and this error is amplified as well.
        if self.kappa is None or self.kappa >= 1 or self.equation is None:
            return None
        return self.equation.residual_bound(self.value) / (1 - self.kappa)

    def refuse(self, *, training: bool) -> None:
        """Raise `SolverError` over rows that were not solved; in training warn instead."""
        failed, residual, status, tolerance = map(
            seen, (~self.converged, self.residual, self.status, self.tolerance)
        )
        worst = int(torch.where(failed, residual.nan_to_num(math.inf), -1.0).argmax())
        words = {
            Status.MAX_STEPS: "step budget spent",
            Status.STALLED: "no progress",
            Status.NOT_FINITE: "NaN or infinity met",
        }
        counts = {word: int((status == s).sum()) for s, word in words.items()}
        reasons = ", ".join(f"{count}: {word}" for word, count in counts.items() if count)
        contracts = self.kappa is not None and self.kappa < 1
        first = (
            "Check that the net has a Lipschitz constant below 1: otherwise there may be no root"
        )
        refuse(
            f"{int(failed.sum())} of {len(failed)} rows did not converge ({reasons}): worst "
            f"residual {float(residual[worst]):.2e}, tolerance "
            f"{float(tolerance[worst % len(tolerance)]):.2e}. "
            f"{'' if contracts else first + '. '}Raise max_steps ({self.max_steps}), loosen "
            f"Solver(rtol=, atol=), or try another method ({', '.join(METHODS)})",
            training=training,
        )


def refuse(message: str, *, training: bool) -> None:
    """Raise `SolverError`; in training warn instead."""
    if not training:
        raise SolverError(message)
    warnings.warn(message, NumericalWarning, stacklevel=4)


@dataclass(frozen=True)
class Solver:
    """How roots are found: a method, tolerances and a budget.

    A row is finished when `|y - w - g(w)| <= atol + rtol |y|` (2-norms of the row), or when its
    residual has stopped falling at the rounding floor of its data type. Rows are independent of
    each other.

    Arguments:
        method: `"auto"`, `"fixed_point"`, `"anderson"`, `"broyden"` or `"newton"`. `"auto"` uses
            Anderson mixing for up to 8 features. For more it uses fixed-point iteration, and
            Anderson mixing for rows that converge slowly. Rows that are still slow continue with
            Newton's method and a dense Jacobian up to 512 features, and with fixed-point iteration
            beyond.
        rtol: relative tolerance, never below 8 eps. None takes the default of the data type:
            in evaluation 8 eps; in training `1e-4` for float32 and `1e-12` for float64.
        atol: absolute tolerance; None takes the same number as `rtol`.
        max_steps: largest number of net evaluations per row and method. None is 200 in training
            and 1000 in evaluation, where fixed-point iteration may take as many (up to 10,000) as
            a known Lipschitz constant may require. 1,000,000 at most.
        backward_rtol: relative tolerance of the linear solve in the backward pass. None takes
            `1e-3` for float32 in training, else `1e-6`; for float64 always `1e-12`.

    Raises:
        ValueError: for an unknown method, a negative tolerance or no steps.

    Example:
        >>> solution = Solver().solve(lambda x: 0.5 * x.sin(), torch.tensor([[1.0, 2.0]]))
        >>> solution.converged
        tensor([True])
    """

    method: str = "auto"
    rtol: float | None = None
    atol: float | None = None
    max_steps: int | None = None
    backward_rtol: float | None = None

    def __post_init__(self) -> None:
        if self.method != "auto" and self.method not in METHODS:
            raise ValueError(f"unknown method {self.method!r}: choose auto, {', '.join(METHODS)}")
        for name in ("rtol", "atol", "backward_rtol"):
            value = getattr(self, name)
            if value is not None and not (is_real(value) and value >= 0):
                raise ValueError(f"Solver({name}={value!r}): a tolerance of at least 0 is needed")
        steps = self.max_steps
        if steps is not None and not (is_whole(steps) and steps >= 1):
            raise ValueError(f"Solver(max_steps={steps!r}): a whole number of at least 1 is needed")
        if steps is not None and steps > _MOST_STEPS:
            raise ValueError(f"Solver(max_steps={steps!r}): {_MOST_STEPS} at most")

    def tolerances(self, dtype: torch.dtype, *, training: bool) -> tuple[float, float]:
        """The tolerances for a data type, the defaults filled in.

        Arguments:
            dtype: type of the rows, `torch.float32` or `torch.float64`.
            training: take the looser defaults of training.

        Returns:
            `(rtol, atol)`. A row is solved if `|y - w - g(w)| <= atol + rtol |y|`.

        Raises:
            TypeError: for a type that is not floating point.
        """
        eps = torch.finfo(dtype).eps
        loose = 1e-12 if dtype == torch.float64 else 1e-4
        rtol = (loose if training else 8 * eps) if self.rtol is None else max(self.rtol, 8 * eps)
        return rtol, rtol if self.atol is None else self.atol

    def backward_tolerance(self, dtype: torch.dtype, *, training: bool) -> float:
        """Relative tolerance of the linear solve behind the derivative.

        Arguments:
            dtype, training: as in `tolerances`.

        Raises:
            TypeError: for a type that is not floating point, if `backward_rtol` is set.
        """
        if self.backward_rtol is not None:
            return max(self.backward_rtol, 8 * torch.finfo(dtype).eps)
        if dtype == torch.float64:
            return 1e-12
        return 1e-3 if training else 1e-6

    def solve(
        self,
        g: FoldedNet | Net,
        y: Tensor,
        context: Tensor | None = None,
        *,
        kappa: float | None = None,
        training: bool = False,
        throw: bool = True,
    ) -> Solution:
        """Find `w` with `w + g(w) = y` for every row of `y`. No gradient is recorded.

        Arguments:
            g: a net, called as `g(w)`, or `g(w, context)` if there is a context; or a folded one,
                which gives no error bound.
            y: right-hand sides, with shape `[B, ...]`, in float32 or float64.
            context: one context per row, or None.
            kappa: Lipschitz constant of `g` in the 2-norm, for the error bound.
            training: use the looser tolerances of training, and warn instead of raising.
            throw: False returns unsolved rows without an error; check `status`.

        Returns:
            A `Solution` with one entry per row.

        Raises:
            SolverError: if `throw`, not `training`, and a row was not solved.
            ValueError: if `y` does not hold such rows.
        """
        if y.dim() < 2 or y.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"y of shape {tuple(y.shape)} and type {y.dtype}: rows of float32 or float64 are "
                "needed, [B, ...]"
            )
        net = g if isinstance(g, FoldedNet) else FoldedModule(g, context)
        solution = self.search(net, y, kappa=kappa, training=training)
        if not isinstance(g, FoldedNet):
            context = None if context is None else context.detach()
            solution = replace(solution, equation=Equation(g, y.detach(), context))
        if throw and not bool(seen(solution.converged).all()):
            solution.refuse(training=training)
        return solution

    @uncompiled
    @grad_mode(enabled=False)
    def search(
        self,
        net: FoldedNet,
        y: Tensor,
        *,
        kappa: float | None = None,
        training: bool = False,
    ) -> Solution:
        """`solve` without its checks: nothing is said of rows that were not solved.

        Arguments:
            net: a folded net `g`, from `[B, ...]` to the same shape.
            y: right-hand sides, with shape `[B, ...]`, in float32 or float64.
            kappa: Lipschitz constant of `g` in the 2-norm, if it is known: a bound on the steps.
            training: take the looser tolerances of training.

        Returns:
            A `Solution` with one entry per row; `status` says which rows were solved. It has no
            error bound.

        Raises:
            TypeError: if `y` is not floating point.
            ValueError: if the net does not keep the shape of its input.
        """
        rtol, atol = self.tolerances(y.dtype, training=training)
        y = y.clone() if y.is_inference() else y
        if torch.is_autocast_enabled(y.device.type):
            rtol = max(rtol, 2 * torch.finfo(torch.get_autocast_dtype(y.device.type)).eps)
        # The length of a row may overflow, its tolerance does not: else anything would be a root.
        tolerance = max(atol, torch.finfo(y.dtype).tiny) + wide_norm(rtol * y)
        legs = self._legs(y.flatten(1).shape[1], kappa, y.dtype, training=training)
        value, residual, steps, status = find_roots(net, y, tolerance, legs)
        numbers = residual.to(y.dtype), steps, status, tolerance.to(y.dtype)
        return Solution(value, *numbers, kappa, max(leg.budget for leg in legs))

    def _legs(
        self, features: int, kappa: float | None, dtype: torch.dtype, *, training: bool
    ) -> tuple[Leg, ...]:
        """The methods in turn."""
        budget = self.max_steps or (200 if training else 1000)
        plain = budget if self.max_steps or training else max(budget, _enough(kappa, dtype))
        if self.method != "auto":
            methods = [self.method]
        elif features <= FEW_FEATURES:
            methods = ["anderson", "newton"]
        else:
            methods = ["fixed_point", "anderson", "newton" if features <= DENSE else "fixed_point"]
        return tuple(
            Leg(
                method,
                plain if method == "fixed_point" else budget,
                # Plain iteration, for many features the last resort, may be slower still.
                hand_over=i < len(methods) - 1 and (i == 0 or features <= DENSE),
            )
            for i, method in enumerate(methods)
        )


def _enough(kappa: float | None, dtype: torch.dtype) -> int:
    """Steps in which a contraction brings any residual down by `eps`, 10,000 at most."""
    if kappa is None or not 0 < kappa < 1:
        return 0
    return min(10_000, math.ceil(math.log(torch.finfo(dtype).eps) / math.log(kappa)))
