"""Both directions of a residual map `r(x) = x + g(x)`, with derivatives and log-determinants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from impflow_zoo.numerics import dense
from impflow_zoo.numerics.graph import forbid_second_order, recording, without_hooks
from impflow_zoo.numerics.linearize import Linearization, chain_of, linearize
from impflow_zoo.numerics.logdet import LogDet
from impflow_zoo.numerics.rows import Net, call, computed_parameters, norm
from impflow_zoo.numerics.solve import Solver
from impflow_zoo.numerics.transposed import ROUNDING, report, solve_transposed

__all__ = ["ResidualMap"]

_DERIVATIVE = "the implicit derivative"
_FEW_FEATURES = 8  # up to here the backward solve is dense


@dataclass(frozen=True)
class ResidualMap:
    """`r(x) = x + g(x, context)` for a batch of rows, to be evaluated or inverted.

    Arguments:
        g: a net that keeps the shape of its input, `[B, ...]`.
        context: one context per row, or None.
        solver: how roots and the linear systems of their derivatives are solved.
        logdet: how log-determinants are computed.
        training: take the tolerances of training, and warn instead of raising.
        kappa: Lipschitz constant of `g` in the 2-norm, where known.
        salt: tells the seeded probes of this map from those of others.
    """

    g: Net
    context: Tensor | None = None
    solver: Solver = field(default_factory=Solver)
    logdet: LogDet = field(default_factory=LogDet)
    training: bool = False
    kappa: float | None = None
    salt: int = 0

    def value(self, x: Tensor) -> Tensor:
        """`r(x)`."""
        # Within a graph the nets' own operations serve derivatives of any order.
        chain = None if torch.is_grad_enabled() else chain_of(self.g, x, self.context)
        g = call(self.g, x, self.context) if chain is None else chain(x)
        return x + g.to(x.dtype)

    def value_and_logdet(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`r(x)` and `log det(I + J_g(x))`, `[B]`, from one graph of the net."""
        point = linearize(self.g, x, self.context)
        gradient = torch.is_grad_enabled() and bool(x.requires_grad or point.leaves())
        with recording():
            logdet = self._logdet(point, gradient=gradient)
            value = point.x + point.value
        return (value, logdet) if gradient else (value.detach(), logdet.detach())

    def inverse(self, y: Tensor) -> Tensor:
        """The `w` with `r(w) = y`, differentiable once by the implicit function theorem."""
        return self._invert(y, want_logdet=False)[0]

    def inverse_and_logdet(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The `w` with `r(w) = y`, and `log det(I + J_g(w))`, `[B]`."""
        w, logdet = self._invert(y, want_logdet=True)
        assert logdet is not None  # asked for
        return w, logdet

    def _logdet(self, point: Linearization, *, gradient: bool) -> Tensor:
        return self.logdet(
            point, gradient=gradient, training=self.training, kappa=self.kappa, salt=self.salt
        )

    def _invert(self, y: Tensor, *, want_logdet: bool) -> tuple[Tensor, Tensor | None]:
        # A chain is taken apart once for all evaluations; rows of contexts come and go, though.
        chain = chain_of(self.g, y, None) if self.context is None else None
        root = self.solver.solve(
            chain or self.g, y, self.context, kappa=self.kappa, training=self.training
        ).value
        if not (torch.is_grad_enabled() or want_logdet):
            return root, None
        context = self.context
        if context is not None and context.requires_grad:
            context = context.detach().requires_grad_()
        point = linearize(self.g, root.detach(), context)
        tensors: list[Tensor] = []
        if torch.is_grad_enabled():
            tensors = point.leaves(context, computed=computed_parameters(self.g))
        gradient = torch.is_grad_enabled() and (
            y.requires_grad or bool(tensors) or (context is not None and context.requires_grad)
        )
        logdet = None
        if want_logdet:
            with recording():
                logdet = self._logdet(point, gradient=gradient)
        if not gradient:
            return root, None if logdet is None else logdet.detach()
        rtol = self.solver.backward_tolerance(y.dtype, training=self.training)
        return _ImplicitRoot.apply(
            (point, logdet, context, rtol, self.training), y, self.context, *tensors
        )


class _ImplicitRoot(torch.autograd.Function):
    """Attach the root, and a log-determinant taken there, to the caller's graph.

    With `t` the gradient that arrives at the root, directly and through the log-determinant, the
    implicit function theorem gives `u = (I + J)^-T t` to the right-hand side and `-u^T dg` to
    parameters and context. The graph of the net at the root is private to this node, lives in
    its saved tensors, and serves all of these products.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inner: tuple[Linearization, Tensor | None, Tensor | None, float, bool],
        y: Tensor,
        context: Tensor | None,
        *tensors: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        point, logdet, own_context, ctx.rtol, ctx.training = inner
        ctx.save_for_backward(
            point.x, point.value, logdet, own_context, point.known_jacobian, *tensors
        )
        return point.x.detach().clone(), None if logdet is None else logdet.detach().clone()

    @staticmethod
    def backward(ctx: Any, grad_root: Tensor, grad_logdet: Tensor | None) -> tuple[Any, ...]:
        forbid_second_order()
        x, value, logdet, context, jacobian, *tensors = ctx.saved_tensors
        targets = list(tensors)
        wants_context = context is not None and context.requires_grad
        if wants_context:
            targets.append(context)
        total = grad_root
        grads: Sequence[Tensor | None] = [None] * len(targets)
        if logdet is not None and logdet.requires_grad:
            with without_hooks(targets):
                first, *grads = torch.autograd.grad(
                    logdet, [x, *targets], grad_logdet, retain_graph=True, allow_unused=True
                )
            total = total if first is None else total + first
        point = Linearization(x, value).remember(jacobian)
        u = _solve_transposed(point, total, ctx.rtol, training=ctx.training)
        if targets and value.requires_grad:
            with without_hooks(targets):
                direct = torch.autograd.grad(
                    value, targets, -u, retain_graph=True, allow_unused=True
                )
            grads = [_add(a, b) for a, b in zip(grads, direct, strict=True)]
        grad_context = grads[-1] if wants_context else None
        return None, u, grad_context, *grads[: len(tensors)]


def _add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b


def _solve_transposed(point: Linearization, t: Tensor, rtol: float, *, training: bool) -> Tensor:
    """`u` with `(I + J)^T u = t` in every row: dense where the Jacobian is at hand or small."""
    if point.known_jacobian is not None or point.features <= _FEW_FEATURES:
        identity = torch.eye(point.features, dtype=t.dtype, device=t.device)
        transposed = identity + point.jacobian().mT
        u = dense.solve(transposed, t.flatten(1)).view_as(t)
    else:
        u = _solve_by_products(point, t, rtol, training=training)
    size = norm(t)
    singular = size.isfinite() & ~(norm(u) * (ROUNDING * torch.finfo(t.dtype).eps) <= size)
    if bool(singular.any()):
        what = (
            "is not known to a digit: I + J is singular there up to rounding, g is no contraction"
        )
        report(singular, _DERIVATIVE, what, training=training)
    return u


def _solve_by_products(point: Linearization, t: Tensor, rtol: float, *, training: bool) -> Tensor:
    """`u` in Krylov spaces, or by dense Jacobians."""
    solved = solve_transposed(point, t, rtol)
    if bool(solved.failed.any()):
        shortfall = solved.shortfall(rtol, solved.failed)
        what = f"did not converge: {shortfall}. Loosen Solver(backward_rtol=)"
        report(solved.failed, _DERIVATIVE, what, training=training)
    return solved.u
