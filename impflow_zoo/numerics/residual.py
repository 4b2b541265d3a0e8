"""Both directions of a residual map `r(x) = x + g(x)`, with derivatives and log-determinants.

With `J` the Jacobian of `g` and `Lip(g) < 1`, `I + J` is invertible everywhere, and so is `r`:

    forwards     y = x + g(x),               log|det dy/dx| = log det(I + J(x))
    backwards    the root w of w + g(w) = y,  log|det dw/dy| = -log det(I + J(w))

The determinant is positive, as `I + t J` is never singular on the way from `t = 0` to 1.

A root enters the caller's graph by the implicit function theorem. From `dw + J dw + dg = dy`, where
`dg` is the change of `g(w)` by its weights alone, follows `dw = (I + J)^-1 (dy - dg)`. So with the
gradient `t` of `w` and `u = (I + J)^-T t`, the gradient of `y` is `u`, and that of `g(w)` is `-u`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from impflow_zoo.numerics.adjoint import solve_transposed
from impflow_zoo.numerics.equation import Equation
from impflow_zoo.numerics.estimate import Estimate, exact, truncated, unbiased
from impflow_zoo.numerics.finite import check_finite, refuse_rows
from impflow_zoo.numerics.folded import FoldedNet, Point
from impflow_zoo.numerics.logdet import LogDet
from impflow_zoo.numerics.modes import forbid_second_order, grad_mode, is_plain, is_transforming
from impflow_zoo.numerics.report import Call
from impflow_zoo.numerics.rows import plus_identity, wide_norm
from impflow_zoo.numerics.search import Status
from impflow_zoo.numerics.solver import DENSE, Solution, Solver

__all__ = ["ResidualMap"]


@dataclass(frozen=True)
class ResidualMap:
    """The residual map `r(x) = x + g(x)` of a batch of rows.

    Arguments:
        net: `g`.
        solver: of roots, and of the linear systems behind derivatives.
        logdet: how log-determinants are computed.
        kappa: Lipschitz constant of `g` in the 2-norm, where it is known.
        salt: tells the seeded probes of this map from those of others.
        equation: what a root solves, at a right-hand side, for the report.
        call: what belongs to the call.
    """

    net: FoldedNet
    solver: Solver = field(default_factory=Solver)
    logdet: LogDet = field(default_factory=LogDet)
    kappa: float | None = None
    salt: int = 0
    equation: Callable[[Tensor], Equation] | None = None
    call: Call = field(default_factory=Call)

    def value(self, x: Tensor) -> Tensor:
        """`r(x)`."""
        # Within a graph the net's own operations serve derivatives of any order.
        recorded = torch.is_grad_enabled() or is_plain()
        g = self.net.forward(x).to(x.dtype) if recorded else self.net.value(x)
        return x + g

    def value_and_logdet(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`r(x)` and `log det(I + J(x))`, `[B]`, from one linearization of the net."""
        wanted = self.net.requires_grad(x) or (torch.is_grad_enabled() and x.requires_grad)
        g, logdet = self._logdet(x, None, gradient=wanted)
        return x + g, logdet

    def inverse(self, y: Tensor) -> Tensor:
        """The `w` with `r(w) = y`, differentiable once by the implicit function theorem."""
        return self._root(y)[0]

    def inverse_and_logdet(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The `w` with `r(w) = y`, and `log det(I + J(w))`, `[B]`."""
        root, point = self._root(y)
        wanted = point is not None or is_plain()
        return root, self._logdet(root, point, gradient=wanted)[1]

    def _root(self, y: Tensor) -> tuple[Tensor, Point | None]:
        """The root; where gradients are recorded it is in the graph, and the net's point there."""
        solution = self.solver.search(self.net, y, kappa=self.kappa, training=self.call.training)
        if self.call.report is not None:
            equation = None if self.equation is None else self.equation(y.detach())
            self.call.report.roots.append(replace(solution, equation=equation))
        failed = (~solution.converged).any()
        self.call.checks.add(failed, partial(self._refuse_root, solution, y.detach()))
        root = solution.value
        if is_transforming():
            return _newton(self.net, root.detach(), y), None
        if not torch.is_grad_enabled() or not (y.requires_grad or self.net.requires_grad(root)):
            return root, None
        point = self.net.linearize(root)
        g, _ = self.net.attach(root, None, point)
        rtol = self.solver.backward_tolerance(y.dtype, training=self.call.training)
        return _ImplicitRoot.apply(point, rtol, self.call.training, y, g), point

    def _logdet(self, x: Tensor, point: Point | None, *, gradient: bool) -> tuple[Tensor, Tensor]:
        """`g(x)` and the log-determinant, in the graph with `gradient`; `point` is that at `x`."""
        call, mode = (
            self.call,
            self.logdet.resolve(x.shape[1:].numel(), training=self.call.training),
        )
        if mode == "unbiased" and is_transforming():
            raise RuntimeError(
                "random log-determinants within transforms of torch.func: their gradients are no "
                "derivatives of their values. Use logdet='exact', or 'truncated'"
            )
        differentiable = gradient and mode == "truncated"
        with grad_mode(enabled=gradient):
            if differentiable:
                point = self.net.recorded(x)
            elif point is None:
                point = self.net.linearize(x)
            at = (self.net, x, point)
            if mode == "exact":
                g, estimate = exact(*at, gradient=gradient)
            elif mode == "unbiased":
                use = self.logdet, self.kappa, call.probes
                g, estimate = unbiased(*at, *use, gradient=gradient)
            else:
                use = self.logdet, self.kappa, call.probes
                details = call.report is not None
                estimate = truncated(point, *use, self.salt, gradient=gradient, details=details)
                g = point.value
        if call.report is not None:
            alone = replace(estimate, value=estimate.value.detach(), solved=None)
            call.report.logdets.append(alone)
        self._check(point, estimate)
        return g, estimate.value

    def _check(self, point: Point, estimate: Estimate) -> None:
        """Let log-determinants that are none, and gradients that were not found, be refused."""
        call, value = self.call, estimate.value.detach()
        # As for inputs, the sum is finite if every entry is.
        call.checks.add(value.sum(), partial(self._refuse_logdet, point, estimate))
        if (solved := estimate.solved) is not None:
            failed = solved.failed & value.isfinite()
            name, setting = "the gradient of log det(I + J)", "LogDet(rtol=)"
            complain = partial(solved.refuse, failed, name, setting, training=call.training)
            call.checks.add(failed.any(), complain)

    def _refuse_root(self, solution: Solution, y: Tensor) -> None:
        """Say why a root was not found; in training warn."""
        if not self.call.training:
            # A root may be a thousand times as long as `y`.
            far = wide_norm(y) > 1e-3 * torch.finfo(y.dtype).max
            lost = (solution.status == Status.NOT_FINITE) | (far & ~solution.converged)
            refuse_rows(lost, "the search for a root met", _too_large(y))
        solution.refuse(training=self.call.training)

    def _refuse_logdet(self, point: Point, estimate: Estimate) -> None:
        """Say why there is no log-determinant; where a series diverges in training, warn."""
        if estimate.mode == "exact" or not self.call.training:
            # Where the net itself is no number, this says nothing of its slopes.
            jacobian = point.known_jacobian
            slopes = point.vjp(torch.ones_like(point.x)) if jacobian is None else jacobian
            for numbers, name in ((point.value, "values"), (slopes, "derivatives")):
                check_finite(numbers.detach(), f"{name} of a net", _too_large(numbers))
        estimate.refuse(training=self.call.training)


def _too_large(x: Tensor) -> str:
    """Why numbers are not finite, if all weights and inputs are."""
    return f"numbers there are too large for {x.dtype}"


def _newton(net: FoldedNet, root: Tensor, y: Tensor) -> Tensor:
    """A root by operations that have derivatives of any kind, forward and reverse mode.

    Two steps of Newton's method, from a root without derivatives. The first one is `w - (I + J)^-1
    (w + g(w) - y)`: what stands in brackets is zero, so its derivative is the implicit one, `(I +
    J)^-1 (dy - dg)`. As a step squares the error, derivatives of the second one are right to the
    third order.
    """
    features = y.shape[1:].numel()
    if features > DENSE:
        raise RuntimeError(
            f"roots of {features} features within transforms of torch.func: {DENSE} at most, use "
            "torch.autograd.grad"
        )
    for _ in range(2):
        point = net.recorded(root)
        rest = (root + point.value - y).flatten(1)[..., None]
        # Not by `solve`: its forward mode within nested `vmap` mixes up matrices (torch 2.13).
        inverse, _ = torch.linalg.inv_ex(plus_identity(point.jacobian()))
        root = root - (inverse @ rest).view_as(root)
    return root


class _ImplicitRoot(torch.autograd.Function):
    """Attach a root `w` to the caller's graph: a node between it, `y` and `g(w)`.

    The node holds the point at the root, so that what others learn of it in between, such as its
    dense Jacobian, serves the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, point: Point, rtol: float, training: bool, y: Tensor, g: Tensor
    ) -> Tensor:
        ctx.point, ctx.rtol, ctx.training = point, rtol, training
        ctx.save_for_backward(point.x)
        return point.x.clone()

    @staticmethod
    def backward(ctx: Any, t: Tensor) -> tuple[Tensor | None, ...]:
        forbid_second_order()
        with torch.autocast(t.device.type, enabled=False):
            solved = solve_transposed(ctx.point.restored(*ctx.saved_tensors), t, ctx.rtol)
        if bool(solved.failed.any()):
            name, setting = "the implicit derivative", "Solver(backward_rtol=)"
            solved.refuse(solved.failed, name, setting, training=ctx.training)
        return None, None, None, solved.u, -solved.u
