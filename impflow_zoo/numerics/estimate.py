"""Estimators of `log det(I + J)`, one class each, and what they answer."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from impflow_zoo.numerics import dense
from impflow_zoo.numerics.adjoint import Solved, solve_transposed
from impflow_zoo.numerics.bound import Linearization
from impflow_zoo.numerics.krylov import arnoldi
from impflow_zoo.numerics.modes import FirstOrder
from impflow_zoo.numerics.probes import Probes
from impflow_zoo.numerics.rows import dot, norm

__all__ = ["Bias", "Estimate"]


class Bias(NamedTuple):
    """What a deterministic series leaves out, in nats, mean over the rows.

    Arguments:
        tail: an estimate, by the geometric series that the last two terms begin.
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


@dataclass(frozen=True)
class Setting:
    """What an estimator is told of the map that it is used for.

    Arguments:
        gradient: record what the derivative of the estimate needs.
        kappa: Lipschitz constant of the net in the 2-norm, where known.
        salt: tells the seeded probes of one net from those of another with the same seed.
        probes: where probes come from.
        details: whether the bias is wanted.
    """

    gradient: bool
    kappa: float | None = None
    salt: int = 0
    probes: Probes = Probes()  # noqa: RUF009 - holds nothing without keys
    details: bool = False


class Estimator(Protocol):
    """A way to estimate log-determinants.

    Attributes:
        differentiable: whether gradients need products that can be differentiated repeatedly.
    """

    differentiable: ClassVar[bool]

    def __call__(self, point: Linearization, setting: Setting) -> Estimate:
        """The estimate at a point, in the graph of the point if gradients are recorded."""


class Exact:
    """The determinant of the dense matrix."""

    differentiable: ClassVar[bool] = False

    def __call__(self, point: Linearization, setting: Setting) -> Estimate:
        if setting.gradient:
            jacobian = point.attach(None)
            point.known_jacobian = jacobian.detach()
        else:
            jacobian = point.jacobian()
        return Estimate(dense.logdet(dense.plus_identity(jacobian)), Bias(0.0, 0.0))


@dataclass(frozen=True)
class Solve:
    """Value `v^T log(I + J^T) v` of a fresh probe, gradient `u^T dJ v` with `(I + J)^T u = v`.

    Arguments:
        rtol: of the linear system.
    """

    differentiable: ClassVar[bool] = False
    rtol: float

    def __call__(self, point: Linearization, setting: Setting) -> Estimate:
        v = setting.probes.fresh(point.x)
        space = arnoldi(point.vjp, v, self.rtol)
        value, solved, products = space.log_form(self.rtol), None, space.products
        if setting.gradient:
            goal = max(self.rtol, _finest(v))
            solved = solve_transposed(point, v, goal, start=space)
            value, products = _with_gradient(value, point, solved.u, v), solved.products
        return Estimate(value, mode="unbiased", products=products, solved=solved)


@dataclass(frozen=True)
class Roulette:
    """The randomly stopped series of Chen et al. (2019), equations 6 and 8, of a fresh probe.

    Arguments:
        n_terms: terms that are always taken, at most 2.
    """

    differentiable: ClassVar[bool] = False
    n_terms: int

    def __call__(self, point: Linearization, setting: Setting) -> Estimate:
        kappa, exact = setting.kappa, min(self.n_terms, 2)
        # At most the rate of Chen et al. (2019).
        stop = min(1 - kappa if kappa is not None and kappa < 1 else 0.1, 0.5)
        lengths = exact + setting.probes.lengths(point.x, stop)
        n = int(lengths.amax()) if len(lengths) else exact
        v = setting.probes.fresh(point.x)
        power, total, u = v, torch.zeros_like(v.flatten(1)[:, 0]), v
        for k in range(1, n + 1):
            power = point.vjp(power)
            weight = (-1) ** k * (1 - stop) ** -max(k - exact - 1, 0) * (lengths >= k).to(v)
            total = total - dot(power, v) * (weight / k)
            u = u + power * weight.view(-1, *[1] * (v.dim() - 1))
        value = _if_bounded(total, power, v)
        if setting.gradient:
            value = _with_gradient(value, point, u, v)
        return Estimate(value, mode="unbiased", products=n)


@dataclass(frozen=True)
class _SeededSeries:
    """The mean of a form over seeded probes; differentiable as it is.

    Arguments:
        n_terms: terms of the series, or dimensions of a Krylov space.
        n_probes: how many probes.
        seed: their seed.
    """

    differentiable: ClassVar[bool] = True
    n_terms: int
    n_probes: int
    seed: int

    def __call__(self, point: Linearization, setting: Setting) -> Estimate:
        probes = (
            setting.probes.seeded(point.x, self.seed, setting.salt, i) for i in range(self.n_probes)
        )
        values, biases = zip(*(self.form(point, v, setting) for v in probes), strict=True)
        bias = None
        if setting.details:
            tail, bound = (math.fsum(part) / len(values) for part in zip(*biases, strict=True))
            bias = Bias(tail, bound)
        draws = torch.stack(values)
        return Estimate(draws.mean(dim=0), bias, mode="truncated", draws=draws)

    def form(self, point: Linearization, v: Tensor, setting: Setting) -> tuple[Tensor, Bias | None]:
        """The value of one probe, and its bias if details are wanted."""
        raise NotImplementedError(f"{type(self).__name__} has to define its form")


class PowerSeries(_SeededSeries):
    """`sum_k (-1)^(k+1)/k v^T J^k v` up to `n_terms`."""

    def form(self, point: Linearization, v: Tensor, setting: Setting) -> tuple[Tensor, Bias | None]:
        dust = torch.finfo(v.dtype).tiny ** (2 / 3)
        power, total = v, torch.zeros_like(v.flatten(1)[:, 0])
        terms = [total.detach()] * 2
        for k in range(1, self.n_terms + 1):
            # Without this, strong contractions leave denormal numbers: ten times slower.
            product = point.vjp(power, create_graph=setting.gradient)
            power = functional.hardshrink(product, dust)
            term = dot(power, v) * ((-1) ** (k + 1) / k)
            total, terms = total + term, [terms[1], term.detach()]
        value, bias = _if_bounded(total, power, v), None
        if setting.details:
            before, last = (float(term.abs().mean()) if len(v) else 0.0 for term in terms)
            bound = truncation_bound(setting.kappa, point.features, self.n_terms)
            bias = Bias(_geometric_tail(before, last), bound)
        return value, bias


@dataclass(frozen=True)
class KrylovSeries(_SeededSeries):
    """`v^T log(I + J^T) v` in a Krylov space of at most `n_terms` dimensions.

    Arguments:
        n_terms, n_probes, seed: as above.
        rtol: residual of `(I + J)^T u = v`, relative to `v`, at which a space has grown enough.
    """

    rtol: float

    def form(self, point: Linearization, v: Tensor, setting: Setting) -> tuple[Tensor, Bias | None]:
        space = arnoldi(
            lambda q: point.vjp(q, create_graph=setting.gradient),
            v,
            self.rtol,
            self.n_terms,
            differentiable=setting.gradient,
        )
        rtol = 1e-3 * default_rtol(v.dtype)
        value = space.log_form(rtol)
        if setting.gradient and bool((space.all_dims > space.dims).any()):
            whole = space.log_form(rtol, whole=True)
            value = value.detach() + (whole - whole.detach())
        if not setting.details:
            return value, None
        if not len(v):
            return value, Bias(0.0, 0.0)
        # Its terms are what each dimension changed; they shrink as the residuals did, or faster.
        last = float((value - space.log_form(rtol, less=1)).detach().abs().mean())
        residual, before = float(space.residual.mean()), float(space.before.mean())
        bound = 2 * truncation_bound(setting.kappa, point.features, int(space.dims.amin()))
        if math.isfinite(bound):
            bound = min(bound, float(space.log_form_bound(setting.kappa or 0.0).amax()))
        earlier = last * before / residual if residual else math.inf
        return value, Bias(_geometric_tail(earlier, last), bound)


def default_rtol(dtype: torch.dtype) -> float:
    """The tolerance of Krylov spaces for a data type."""
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


def _finest(v: Tensor) -> float:
    """What rounding leaves of a residual, relative to `v`."""
    narrow = torch.is_autocast_enabled(v.device.type)
    dtype = torch.get_autocast_dtype(v.device.type) if narrow else v.dtype
    return 8 * torch.finfo(dtype).eps


def _geometric_tail(before: float, last: float) -> float:
    """What the terms left out add up to, if they shrink as the last two did."""
    if last == 0:
        return 0.0
    ratio = last / before if before > 0 else math.inf
    return last * ratio / (1 - ratio) if ratio < 1 else math.inf
