"""Estimates of `log det(I + J)` at a point, one function for each way to make one."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from impflow_zoo.numerics import dense
from impflow_zoo.numerics.adjoint import Solved, solve_transposed
from impflow_zoo.numerics.bound import Linearization
from impflow_zoo.numerics.krylov import arnoldi
from impflow_zoo.numerics.logdet import LogDet, NoContractionError
from impflow_zoo.numerics.modes import FirstOrder
from impflow_zoo.numerics.probes import Probes
from impflow_zoo.numerics.rows import dot, norm
from impflow_zoo.numerics.solver import NumericalWarning

__all__ = ["Bias"]


class Bias(NamedTuple):
    """What a deterministic series leaves out, in nats, mean over the rows.

    Arguments:
        tail: an estimate, by the geometric series that the last terms begin.
        bound: what it is at most; NaN where the Lipschitz constant is not known.
    """

    tail: float
    bound: float


@dataclass(frozen=True)
class Estimate:
    """An estimate of `log det(I + J)`.

    Arguments:
        value: one number per row, `[B]`; NaN or `-inf` in rows that have none.
        bias: of truncated series, where it was asked for.
        mode: `"exact"`, `"truncated"` or `"unbiased"`.
        draws: of truncated series the value of each probe, `[n, B]`.
        products: products with the Jacobian that random series took.
        solved: the linear systems behind the gradient, where there are any.
    """

    value: Tensor
    bias: Bias | None = None
    mode: str = "exact"
    draws: Tensor | None = None
    products: int = 0
    solved: Solved | None = None

    @property
    def variance(self) -> Tensor:
        """That of the value, `[B]`: 0 for exact ones, NaN for a single draw."""
        if self.draws is not None and len(self.draws) > 1:
            return self.draws.var(dim=0) / len(self.draws)
        return torch.full_like(self.value, 0.0 if self.mode == "exact" else math.nan)

    def without_graph(self) -> Estimate:
        """The same numbers alone."""
        draws = None if self.draws is None else self.draws.detach()
        return replace(self, value=self.value.detach(), draws=draws, solved=None)

    def refuse(self, *, training: bool) -> None:
        """Say which rows have no log-determinant.

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
            f"{int(wrong.sum())} of {len(wrong)} rows: the net is no contraction there. Bound its "
            "Lipschitz constant below 1 (LipschitzMLP does)"
        )
        if exact or not training:
            raise NoContractionError(message)
        warnings.warn(message, NumericalWarning, stacklevel=3)


def exact(point: Linearization, *, gradient: bool) -> Estimate:
    """The determinant of the dense matrix.

    Arguments:
        point: the net at the point, in whose graph the estimate is if gradients are recorded.
        gradient: record what the derivative of the estimate needs.
    """
    if gradient:
        jacobian = point.attach(None)
        point.known_jacobian = jacobian.detach()
    else:
        jacobian = point.jacobian()
    return Estimate(dense.logdet(dense.plus_identity(jacobian)), Bias(0.0, 0.0))


def unbiased(
    point: Linearization, settings: LogDet, kappa: float | None, probes: Probes, *, gradient: bool
) -> Estimate:
    """A random estimate, by a fresh probe.

    Arguments:
        point, gradient: as in `exact`.
        settings: the series and its tolerance or terms.
        kappa: Lipschitz constant of the net in the 2-norm, where known.
        probes: where the probe comes from.
    """
    if settings.series == "roulette":
        return _roulette(point, min(settings.n_terms, 2), kappa, probes, gradient=gradient)
    v = probes.fresh(point.x)
    return _solve(point, v, settings.rtol or _default_rtol(v.dtype), gradient=gradient)


def _solve(point: Linearization, v: Tensor, rtol: float, *, gradient: bool) -> Estimate:
    """Value `v^T log(I + J^T) v`, gradient `u^T dJ v` with `(I + J)^T u = v`."""
    space = arnoldi(point.vjp, v, rtol)
    value, solved, products = space.log_form(rtol), None, space.products
    if gradient:
        narrow = torch.is_autocast_enabled(v.device.type)
        dtype = torch.get_autocast_dtype(v.device.type) if narrow else v.dtype
        solved = solve_transposed(point, v, max(rtol, 8 * torch.finfo(dtype).eps), start=space)
        value, products = _with_gradient(value, point, solved.u, v), solved.products
    return Estimate(value, mode="unbiased", products=products, solved=solved)


def _roulette(
    point: Linearization, exact: int, kappa: float | None, probes: Probes, *, gradient: bool
) -> Estimate:
    """The randomly stopped series of Chen et al. (2019), equations 6 and 8.

    So many terms are always taken; it stops at most at their rate.
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
    value = _if_bounded(total, power, v)
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
    """The mean of a series over seeded probes, differentiable as it is.

    Arguments:
        point, settings, kappa, probes, gradient: as in `unbiased`.
        salt: tells the seeded probes of one net from those of another with the same seed.
        details: whether the bias is wanted.
    """
    # By name it is the plain series: its terms are counted.
    series = _power_series if settings.mode == "truncated" else _krylov_series
    values, biases = [], []
    for i in range(settings.n_probes):
        v = probes.seeded(point.x, settings.seed, salt, i)
        value, bias = series(point, v, settings, kappa, gradient=gradient, details=details)
        values.append(value)
        biases.append(bias)
    draws = torch.stack(values)
    bias = Bias(*(math.fsum(part) / len(values) for part in zip(*biases, strict=True)))
    return Estimate(draws.mean(dim=0), bias if details else None, mode="truncated", draws=draws)


def _power_series(
    point: Linearization,
    v: Tensor,
    settings: LogDet,
    kappa: float | None,
    *,
    gradient: bool,
    details: bool,
) -> tuple[Tensor, Bias]:
    """`sum_k (-1)^(k+1)/k v^T J^k v`."""
    dust = torch.finfo(v.dtype).tiny ** (2 / 3)
    power, total = v, torch.zeros_like(v.flatten(1)[:, 0])
    before = last = total
    for k in range(1, settings.n_terms + 1):
        # Without this, strong contractions leave denormal numbers: ten times slower.
        power = functional.hardshrink(point.vjp(power, create_graph=gradient), dust)
        before, last = last, dot(power, v) * ((-1) ** (k + 1) / k)
        total = total + last
    value = _if_bounded(total, power, v)
    if not details:
        return value, Bias(0.0, 0.0)
    size = _mean_size(before)
    ratio = _mean_size(last) / size if size else math.inf
    bound = truncation_bound(kappa, point.features, settings.n_terms)
    return value, Bias(_geometric_tail(_mean_size(last), ratio), bound)


def _krylov_series(
    point: Linearization,
    v: Tensor,
    settings: LogDet,
    kappa: float | None,
    *,
    gradient: bool,
    details: bool,
) -> tuple[Tensor, Bias]:
    """`v^T log(I + J^T) v` in a Krylov space, grown until `(I + J)^T u = v` is solved."""
    loosest = _default_rtol(v.dtype)
    space = arnoldi(
        lambda q: point.vjp(q, create_graph=gradient),
        v,
        min(settings.rtol or loosest, loosest),
        settings.n_terms,
        differentiable=gradient,
    )
    rtol = 1e-3 * loosest
    value = space.log_form(rtol)
    if gradient:
        whole = space.log_form(rtol, space.all_dims)
        value = value.detach() + (whole - whole.detach())
    if not details or not len(v):
        return value, Bias(0.0, 0.0)
    # Its terms are what each dimension changed; they shrink as the residuals did, or faster.
    last = _mean_size(value - space.log_form(rtol, space.dims - 1))
    shrunk = (space.residual / space.size) ** (1 / space.dims)
    bound = 2 * truncation_bound(kappa, point.features, int(space.dims.amin()))
    if math.isfinite(bound):
        bound = min(bound, float(space.log_form_bound(kappa or 0.0).amax()))
    return value, Bias(_geometric_tail(last, float(shrunk.mean())), bound)


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


def _if_bounded(value: Tensor, power: Tensor, v: Tensor) -> Tensor:
    """The value, NaN in rows where the last power `J^n v` is longer than any contraction's.

    A contraction in the 1-norm or the maximum norm may stretch 2-norms, by `sqrt(d)` at most.
    """
    bounded = norm(power.detach()) <= v[0].numel() ** 0.5 * norm(v) if len(v) else value == value
    return torch.where(bounded, value, torch.nan)


def _with_gradient(value: Tensor, point: Linearization, u: Tensor, v: Tensor) -> Tensor:
    """Give `value` the gradient of `u^T J v`, row by row, at the price of one double product."""
    products = point.attach(u.detach().flatten(1)[:, None])[:, 0]
    surrogate = FirstOrder.apply((products * v.flatten(1)).sum(dim=1))
    return value.detach() + (surrogate - surrogate.detach())


def _mean_size(term: Tensor) -> float:
    return float(term.detach().abs().mean()) if len(term) else 0.0


def _geometric_tail(last: float, ratio: float) -> float:
    """What the terms after the last one add up to, if each is the one before by the ratio."""
    if last == 0:
        return 0.0
    return last * ratio / (1 - ratio) if ratio < 1 else math.inf
