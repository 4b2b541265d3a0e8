"""Estimates of `log det(I + J)` at a point, one function for each way to make one.

All of them come from `log det(I + J) = tr log(I + J) = sum_k (-1)^(k+1) / k tr(J^k)`, which
converges for `|J| < 1`; for a probe `v` of random signs `tr(A)` is the mean of `v^T A v`.

    exact        the determinant itself, from `d` products with unit vectors
    unbiased     `v^T log(I + J^T) v` of a fresh probe
    truncated    the mean over a few seeded probes, the same in every call

With `gradient` the answer is in the graph of `x` and the net; functions then return `g(x)`, which
comes from the same graph. `kappa` is the Lipschitz constant of the net in the 2-norm, or None.
`salt` gives each map its own seeded probes.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from impflow_zoo.numerics.adjoint import Solved, solve_transposed
from impflow_zoo.numerics.folded import FoldedNet, Point
from impflow_zoo.numerics.krylov import Krylov, arnoldi
from impflow_zoo.numerics.logdet import LogDet, NoContractionError
from impflow_zoo.numerics.modes import forbid_second_order, seen
from impflow_zoo.numerics.probes import Probes
from impflow_zoo.numerics.rows import dot, logdet, norm, plus_identity
from impflow_zoo.numerics.solver import NumericalWarning


class Bias(NamedTuple):
    """The bias of a truncated series in nats: an estimate and a bound, NaN without `kappa`."""

    tail: float
    bound: float


@dataclass(frozen=True)
class Estimate:
    """An estimate of `log det(I + J)`."""

    value: Tensor  # one number per row, `[B]`; NaN or `-inf` in rows that have none
    bias: Bias | None = None  # of truncated series, where it was asked for
    mode: str = "exact"  # or "truncated", "unbiased"
    draws: Tensor | None = None  # of truncated series the value of each probe, `[n, B]`
    products: int = 0  # with the Jacobian, that random series took
    solved: Solved | None = None  # the linear systems behind the gradient, if any

    @property
    def variance(self) -> Tensor:
        """Variance of `value`, `[B]`, which is 0 in the mode `exact` and NaN for a single draw."""
        if self.draws is not None and len(self.draws) > 1:
            return self.draws.var(dim=0) / len(self.draws)
        return torch.full_like(self.value, 0.0 if self.mode == "exact" else math.nan)

    def refuse(self, *, training: bool) -> None:
        """Report the rows without a log-determinant.

        Raises:
            NoContractionError: where `det(I + J) <= 0`; in evaluation, where a series diverges. In
                training such a row stays NaN, with a `NumericalWarning`.
        """
        wrong = ~seen(self.value).isfinite()
        if not bool(wrong.any()):  # their sum alone was not
            return
        exact = self.mode == "exact"
        message = (
            f"{'det(I + J) <= 0' if exact else 'the series of log det(I + J) diverges'} in "
            f"{int(wrong.sum())} of {len(wrong)} rows: the net is not a contraction there. "
            "Bound its Lipschitz constant below 1 (LipschitzMLP does)"
        )
        if exact or not training:
            raise NoContractionError(message)
        warnings.warn(message, NumericalWarning, stacklevel=3)


def exact(net: FoldedNet, x: Tensor, point: Point, *, gradient: bool) -> tuple[Tensor, Estimate]:
    """The determinant of the dense matrix."""
    if not gradient:
        return point.value, _exact(point.jacobian())
    g, jacobian = net.attach(x, point.unit_vectors(), point)
    point.known_jacobian = jacobian.detach()
    return g, _exact(jacobian)


def _exact(jacobian: Tensor) -> Estimate:
    return Estimate(logdet(plus_identity(jacobian)), Bias(0.0, 0.0))


def unbiased(
    net: FoldedNet,
    x: Tensor,
    point: Point,
    settings: LogDet,
    kappa: float | None,
    probes: Probes,
    *,
    gradient: bool,
) -> tuple[Tensor, Estimate]:
    """A random estimate, by a fresh probe `v`.

    The value is that of the series. Its gradient is not: `d log det(I + J) = tr((I + J)^-1 dJ)` is
    the mean of `u^T dJ v` with `u = (I + J)^-T v`, or with the same sum of powers in place of `u`.
    """
    if settings.series == "roulette":
        estimate, u, v = _roulette(point, min(settings.n_terms, 2), kappa, probes)
    else:
        v = probes.fresh(point.value)
        rtol = settings.rtol or _default_rtol(v.dtype)
        estimate, u = _solve(point, v, rtol, gradient=gradient)
    if not gradient:
        return point.value, estimate
    g, products = net.attach(x, u.detach().flatten(1)[:, None], point)
    surrogate = (products[:, 0] * v.flatten(1)).sum(dim=1)
    if surrogate.requires_grad:
        surrogate.register_hook(forbid_second_order)
    return g, replace(estimate, value=estimate.value + (surrogate - surrogate.detach()))


def _solve(point: Point, v: Tensor, rtol: float, *, gradient: bool) -> tuple[Estimate, Tensor]:
    """The value `v^T log(I + J^T) v`, and `u`: both from one Krylov subspace, if it suffices."""
    space = arnoldi(point.vjp, v, rtol)
    estimate = Estimate(space.log_form(rtol), mode="unbiased", products=space.products)
    if not gradient:
        return estimate, v
    solved = solve_transposed(point, v, max(rtol, 8 * torch.finfo(v.dtype).eps), start=space)
    return replace(estimate, products=solved.products, solved=solved), solved.u


def _roulette(
    point: Point, exact: int, kappa: float | None, probes: Probes
) -> tuple[Estimate, Tensor, Tensor]:
    """The randomly stopped series of Chen et al. (2019), equations 6 and 8, and `u` and `v`.

    The first `exact` terms are always taken. Then it stops at a rate of `1 - kappa`, at most 0.5. A
    term that is reached with probability `p` counts `1 / p` times.
    """
    stop = min(1 - kappa if kappa is not None and kappa < 1 else 0.1, 0.5)
    lengths = exact + probes.lengths(point.value, stop)
    n = int(lengths.amax()) if len(lengths) else exact
    v = probes.fresh(point.value)
    power, total, u = v, torch.zeros_like(v.flatten(1)[:, 0]), v
    for k in range(1, n + 1):
        power = point.vjp(power)
        weight = (-1) ** k * (1 - stop) ** -max(k - exact - 1, 0) * (lengths >= k).to(v)
        total = total - dot(power, v) * (weight / k)
        u = u + power * weight.view(-1, *[1] * (v.dim() - 1))
    # Contractions in the 1-norm or the maximum norm stretch 2-norms by so much at most.
    bounded = norm(power) <= point.features**0.5 * norm(v)
    return Estimate(torch.where(bounded, total, torch.nan), mode="unbiased", products=n), u, v


def truncated(
    point: Point,
    settings: LogDet,
    kappa: float | None,
    probes: Probes,
    salt: int,
    *,
    gradient: bool,
    details: bool,
) -> Estimate:
    """The mean of a series over seeded probes, differentiable as it is; `details` adds the bias."""
    loosest = _default_rtol(point.x.dtype)
    rtol, terms, form = min(settings.rtol or loosest, loosest), None, 1e-3 * loosest
    if settings.mode == "truncated":  # asked for by name: the plain series of `n_terms`
        rtol, terms, form = 0.0, settings.n_terms, 0.0
    values, biases = [], []
    for i in range(settings.n_probes):
        v = probes.seeded(point.x, settings.seed, salt, i)
        space = arnoldi(point.vjp, v, rtol, settings.n_terms, differentiable=gradient)
        value = space.log_form(form, terms=terms)
        if gradient:
            whole = space.log_form(form, dims=space.all_dims, terms=terms)
            value = value.detach() + (whole - whole.detach())
        values.append(value)
        if details:
            biases.append(_bias(space, value.detach(), kappa, point.features, terms))
    draws, bias = torch.stack(values), None
    if details:
        bias = Bias(*(math.fsum(part) / len(biases) for part in zip(*biases, strict=True)))
    return Estimate(draws.mean(dim=0), bias, mode="truncated", draws=draws.detach())


@torch.no_grad()
def _bias(
    space: Krylov, value: Tensor, kappa: float | None, features: int, terms: int | None
) -> Bias:
    """What a form leaves out: later terms, where they are counted, and further dimensions."""
    if not len(value):
        return Bias(0.0, 0.0)
    rtol = 1e-3 * _default_rtol(value.dtype)
    all_terms = space.log_form(rtol)
    last = float((all_terms - space.log_form(rtol, dims=space.dims - 1)).abs().mean())
    # What a dimension changes shrinks as the residuals did on average, or faster.
    ratio = float(((space.residual / space.size) ** (1 / space.dims)).mean())
    tail = last * ratio / (1 - ratio) if ratio < 1 else math.inf
    if terms is not None:
        tail += float((all_terms - value).abs().mean())
        tail = math.inf if math.isnan(tail) else tail  # the series does not converge
        return Bias(tail, truncation_bound(kappa, features, terms))
    bound = 2 * truncation_bound(kappa, features, int(space.dims.amin()))
    if math.isfinite(bound):
        bound = min(bound, float(space.log_form_bound(kappa or 0.0).amax()))
    return Bias(tail, bound)


def _default_rtol(dtype: torch.dtype) -> float:
    """The tolerance of Krylov spaces."""
    return 1e-8 if dtype == torch.float64 else 1e-3


def truncation_bound(kappa: float | None, features: int, n_terms: int) -> float:
    """Bound `d sum_{k > n} kappa^k / k` of the bias of `n` terms, in nats; NaN if kappa unknown."""
    if kappa is None:
        return math.nan
    if kappa >= 1:
        return math.inf
    head = sum(kappa**k / k for k in range(1, n_terms + 1))
    return max(features * (-math.log1p(-kappa) - head), 0.0)
