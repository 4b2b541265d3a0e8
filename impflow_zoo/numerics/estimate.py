"""Estimates of `log det(I + J)` at a point, one function for each way to make one.

`gradient` makes an estimate part of the graph of the point. `kappa` is the Lipschitz constant of
the net in the 2-norm, or None. `salt` gives each net its own seeded probes.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from impflow_zoo.numerics.adjoint import Solved, solve_transposed
from impflow_zoo.numerics.bound import Linearization
from impflow_zoo.numerics.krylov import Krylov, arnoldi
from impflow_zoo.numerics.logdet import LogDet, NoContractionError
from impflow_zoo.numerics.modes import forbid_second_order
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
        """Variance of `value`, `[B]`: 0 in the mode `exact`, NaN for a single draw."""
        if self.draws is not None and len(self.draws) > 1:
            return self.draws.var(dim=0) / len(self.draws)
        return torch.full_like(self.value, 0.0 if self.mode == "exact" else math.nan)

    def refuse(self, *, training: bool) -> None:
        """Report the rows without a log-determinant.

        Raises:
            NoContractionError: where `det(I + J) <= 0`; in evaluation, where a series diverges. In
                training such a row stays NaN, with a `NumericalWarning`.
        """
        wrong = ~self.value.isfinite()
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


def exact(point: Linearization, *, gradient: bool) -> Estimate:
    """The determinant of the dense matrix."""
    if gradient:
        jacobian = point.attach(None)
        point.known_jacobian = jacobian.detach()
    else:
        jacobian = point.jacobian()
    return Estimate(logdet(plus_identity(jacobian)), Bias(0.0, 0.0))


def unbiased(
    point: Linearization, settings: LogDet, kappa: float | None, probes: Probes, *, gradient: bool
) -> Estimate:
    """A random estimate, by a fresh probe."""
    if settings.series == "roulette":
        return _roulette(point, min(settings.n_terms, 2), kappa, probes, gradient=gradient)
    v = probes.fresh(point.x)
    return _solve(point, v, settings.rtol or _default_rtol(v.dtype), gradient=gradient)


def _solve(point: Linearization, v: Tensor, rtol: float, *, gradient: bool) -> Estimate:
    """Value `v^T log(I + J^T) v`, gradient `u^T dJ v` with `(I + J)^T u = v`."""
    space = arnoldi(point.vjp, v, rtol)
    value, solved, products = space.log_form(rtol), None, space.products
    if gradient:
        solved = solve_transposed(point, v, max(rtol, 8 * torch.finfo(v.dtype).eps), start=space)
        value, products = _with_gradient(value, point, solved.u, v), solved.products
    return Estimate(value, mode="unbiased", products=products, solved=solved)


def _roulette(
    point: Linearization, exact: int, kappa: float | None, probes: Probes, *, gradient: bool
) -> Estimate:
    """The randomly stopped series of Chen et al. (2019), equations 6 and 8.

    The first `exact` terms are always taken. Then it stops at a rate of `1 - kappa`, at most 0.5.
    """
    stop = min(1 - kappa if kappa is not None and kappa < 1 else 0.1, 0.5)
    lengths = exact + probes.lengths(point.x, stop)
    n = int(lengths.amax()) if len(lengths) else exact
    v = probes.fresh(point.x)
    power, total, u = v, torch.zeros_like(v.flatten(1)[:, 0]), v
    for k in range(1, n + 1):
        power = point.vjp(power)
        weight = (-1) ** k * (1 - stop) ** -max(k - exact - 1, 0) * (lengths >= k).to(v)
        total = total - dot(power, v) * (weight / k)
        u = u + power * weight.view(-1, *[1] * (v.dim() - 1))
    # Contractions in the 1-norm or the maximum norm stretch 2-norms by so much at most.
    bounded = norm(power) <= point.features**0.5 * norm(v)
    value = torch.where(bounded, total, torch.nan)
    if gradient:
        value = _with_gradient(value, point, u, v)
    return Estimate(value, mode="unbiased", products=n)


def truncated(
    point: Linearization,
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
    product = partial(point.vjp, create_graph=gradient)
    values, biases = [], []
    for i in range(settings.n_probes):
        v = probes.seeded(point.x, settings.seed, salt, i)
        space = arnoldi(product, v, rtol, settings.n_terms, differentiable=gradient)
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


def _with_gradient(value: Tensor, point: Linearization, u: Tensor, v: Tensor) -> Tensor:
    """Give `value` the gradient of `u^T J v`, row by row, at the price of one double product."""
    products = point.attach(u.detach().flatten(1)[:, None])[:, 0]
    surrogate = (products * v.flatten(1)).sum(dim=1)
    if surrogate.requires_grad:
        surrogate.register_hook(forbid_second_order)
    return value.detach() + (surrogate - surrogate.detach())
