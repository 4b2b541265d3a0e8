"""The log-determinant `L_g(x) = log det(I + J_g(x))` of a residual map, and its gradient."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from impflow_zoo.numerics import dense, monitor
from impflow_zoo.numerics.graph import FirstOrder
from impflow_zoo.numerics.krylov import arnoldi
from impflow_zoo.numerics.linearize import Linearization
from impflow_zoo.numerics.probes import fresh_lengths, fresh_probe, seeded_probe
from impflow_zoo.numerics.rows import dot, norm
from impflow_zoo.numerics.seeds import mix
from impflow_zoo.numerics.settings import is_real, is_whole
from impflow_zoo.numerics.solve import NumericalWarning
from impflow_zoo.numerics.transposed import report, solve_transposed

__all__ = ["LogDet", "NoContractionError", "truncation_bound"]

MODES = ("auto", "exact", "unbiased", "truncated")
SERIES = ("solve", "roulette")
_EXACT_TRAINING = 10  # features up to which dense Jacobians pay in training
_EXACT_EVALUATION = 64  # and in evaluation, where they buy an answer without noise
_ROUNDING = 8.0  # how many eps a residual may keep
_MOST_OFTEN = 0.5  # that a random series stops: the rate of Chen et al. (2019)
_SERIES_RTOL = 1e-3  # of the projection's own series in evaluation, relative to the space's

_Figures = tuple[float, float, float]  # the last two terms of a series, a bound of the later ones


_REMEDY = (
    "the net is no contraction there. Bound its Lipschitz constant below 1 (LipschitzMLP does)"
)


class NoContractionError(ValueError):
    """`det(I + J) <= 0`: the net is no contraction, the map may not be invertible."""


@dataclass(frozen=True)
class LogDet:
    """How `log det(I + J)` is computed.

    Arguments:
        mode: `"exact"` (dense Jacobian), `"unbiased"` (random, a fresh probe each call),
            `"truncated"` (a fixed number of terms of the power series, seeded probes), or
            `"auto"`: in training exact up to 10 features, else unbiased; in evaluation exact up to
            64 features, else truncated, the series summed in a Krylov space of each probe. That
            has the same terms, stands for later ones too, and ends where those are below `rtol`.
        series: what `unbiased` does beyond the probe. `"solve"`: a Krylov space of the probe,
            grown until `(I + J)^T u = v` is solved to `rtol`; its bias is that tolerance and its
            variance is finite. Where 60 dimensions do not reach it, the gradient's solve starts
            anew, at a price, and the value is that of the 60.
            `"roulette"`: the randomly stopped series of Chen et al. (2019), unbiased to the last
            term; it stops at a rate of `1 - kappa`, as its variance is infinite from `1 - kappa^2`
            on. Where the constant is not known it is taken for 0.9, which will do below 0.948.
        rtol: tolerance of `"solve"` and, in evaluation, of `"auto"` beyond 64 features; None is
            1e-3 in float32 and 1e-8 in float64. In evaluation `"auto"`
            takes the tighter one of this and the default.
        n_terms: terms of `"truncated"`, the most of them in a Krylov space, and terms that
            `"roulette"` always takes (at most 2 there).
        n_probes: probes averaged by `"truncated"`; the standard error needs at least two.
        seed: seed of the probes of `"truncated"`.

    Raises:
        ValueError: for an unknown mode or series, or a number out of its range.

    References:
        Residual Flows for Invertible Generative Modeling (Chen et al., 2019)
        https://arxiv.org/abs/1906.02735
    """

    mode: str = "auto"
    series: str = "solve"
    rtol: float | None = None
    n_terms: int = 20
    n_probes: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"unknown logdet {self.mode!r}: choose {', '.join(MODES)}")
        if self.series not in SERIES:
            raise ValueError(f"unknown series {self.series!r}: choose {', '.join(SERIES)}")
        if self.rtol is not None and not (is_real(self.rtol) and 0 < self.rtol < 1):
            raise ValueError(f"LogDet(rtol={self.rtol!r}): a tolerance between 0 and 1 is needed")
        for name, least in (("n_terms", 1), ("n_probes", 1), ("seed", 0)):
            value = getattr(self, name)
            if not (is_whole(value) and value >= least):
                raise ValueError(
                    f"LogDet({name}={value!r}): a whole number of at least {least} is needed"
                )

    @classmethod
    def of(cls, logdet: str | LogDet) -> LogDet:
        """The settings that a mode's name or a `LogDet` stands for.

        Raises:
            TypeError: if it is neither.
        """
        if isinstance(logdet, cls):
            return logdet
        if not isinstance(logdet, str):
            raise TypeError(
                f"logdet of type {type(logdet).__name__}: a LogDet is needed, or the name of a "
                f"mode: {', '.join(MODES)}"
            )
        return cls(mode=logdet)

    def resolve(self, features: int, *, training: bool) -> str:
        """The mode that `auto` comes to."""
        if self.mode != "auto":
            return self.mode
        if features <= (_EXACT_TRAINING if training else _EXACT_EVALUATION):
            return "exact"
        return "unbiased" if training else "truncated"

    def __call__(
        self,
        point: Linearization,
        *,
        gradient: bool,
        training: bool = False,
        kappa: float | None = None,
        salt: int = 0,
    ) -> Tensor:
        """`log det(I + J)` at a point, one number per row, `[B]`.

        Arguments:
            point: the net at the point, with its graph.
            gradient: record what the derivative of the result needs.
            training: decides what `auto` means.
            kappa: Lipschitz constant of the net, where known.
            salt: tells the probes of one net from those of another with the same seed.

        Raises:
            NoContractionError: in mode `exact`, where `det(I + J) <= 0`; in evaluation, where the
                series of another mode diverges. In training such a row is NaN, with a
                `NumericalWarning`.
        """
        mode = self.resolve(point.features, training=training)
        if mode == "exact":
            value = _exact(point, gradient=gradient)
            figures = {"variance": torch.zeros_like(value), "tail": 0.0, "bound": 0.0}
        elif mode == "truncated":
            # By name it is the plain series: whoever counts its terms gets those.
            form = self._power_form if self.mode == mode else self._krylov_form
            one = partial(form, point, gradient=gradient, kappa=kappa)
            value, figures = self._over_probes(one, point.x, salt)
        elif self.series == "solve":
            value, figures = self._solve(point, gradient=gradient, training=training)
        else:
            value, figures = self._roulette(point, gradient=gradient, kappa=kappa)
        diverged = value.isnan()
        if mode != "exact" and bool(diverged.any()):
            message = (
                f"the series of log det(I + J) diverges in {int(diverged.sum())} of "
                f"{len(diverged)} rows: {_REMEDY}"
            )
            if not training:
                raise NoContractionError(message)
            warnings.warn(message, NumericalWarning, stacklevel=2)
        monitor.emit("logdet", mode=mode, rows=len(value), **figures)
        return value

    def _over_probes(
        self, form: Callable[[Tensor], tuple[Tensor, _Figures]], x: Tensor, salt: int
    ) -> tuple[Tensor, dict]:
        """Mean of a form over seeded probes; differentiable as it is."""
        forms = [form(seeded_probe(x, self.seed, salt, i)) for i in range(self.n_probes)]
        stacked = torch.stack([value for value, _ in forms])
        if not monitor.listening():
            return stacked.mean(dim=0), {}
        spread = stacked.detach().var(dim=0) if self.n_probes > 1 else stacked[0] * math.nan
        before, last, bound = (
            sum(figures[i] for _, figures in forms) / self.n_probes for i in range(3)
        )
        return stacked.mean(dim=0), {
            "variance": spread / self.n_probes,
            "tail": _geometric_tail(before, last),
            "bound": bound,
        }

    def _power_form(
        self, point: Linearization, v: Tensor, *, gradient: bool, kappa: float | None
    ) -> tuple[Tensor, _Figures]:
        """`sum_k (-1)^(k+1)/k v^T J^k v` up to `n_terms`."""
        dust = torch.finfo(v.dtype).tiny ** (2 / 3)
        power, total, terms = v, torch.zeros_like(v.flatten(1)[:, 0]), [0.0, 0.0]
        for k in range(1, self.n_terms + 1):
            # Without this, strong contractions leave denormal numbers: ten times slower.
            power = functional.hardshrink(point.vjp(power, create_graph=gradient), dust)
            term = dot(power, v) * ((-1) ** (k + 1) / k)
            total = total + term
            if k > self.n_terms - 2 and monitor.listening() and len(v):
                terms = [terms[1], float(term.detach().abs().mean())]
        bound = truncation_bound(kappa, point.features, self.n_terms)
        return _if_bounded(total, power, v), (terms[0], terms[1], bound)

    def _krylov_form(
        self, point: Linearization, v: Tensor, *, gradient: bool, kappa: float | None
    ) -> tuple[Tensor, _Figures]:
        """`v^T log(I + J^T) v` in a Krylov space of at most `n_terms` dimensions."""
        loosest = self._default_rtol(v)
        space = arnoldi(
            lambda q: point.vjp(q, create_graph=gradient),
            v,
            loosest if self.rtol is None else min(self.rtol, loosest),
            self.n_terms,
            differentiable=gradient,
        )
        rtol = _SERIES_RTOL * loosest
        value = space.log_form(rtol)
        if gradient and bool((space.all_dims > space.dims).any()):
            whole = space.log_form(rtol, whole=True)
            value = value.detach() + (whole - whole.detach())
        if not (monitor.listening() and len(v)):
            return value, (0.0, 0.0, 0.0)
        # Its terms are what each dimension changed; they shrink as the residuals did, or faster.
        last = float((value - space.log_form(rtol, less=1)).detach().abs().mean())
        residual, before = float(space.residual.mean()), float(space.before.mean())
        bound = 2 * truncation_bound(kappa, point.features, int(space.dims.amin()))
        if math.isfinite(bound):
            bound = min(bound, float(space.log_form_bound(kappa or 0.0).amax()))
        return value, (last * before / residual if residual else math.inf, last, bound)

    def _default_rtol(self, v: Tensor) -> float:
        return 1e-8 if v.dtype == torch.float64 else 1e-3

    def _solve(
        self, point: Linearization, *, gradient: bool, training: bool
    ) -> tuple[Tensor, dict]:
        """Value `v^T log(I + J^T) v`, gradient `u^T dJ v` with `(I + J)^T u = v`."""
        v = fresh_probe(point.x)
        rtol = self.rtol or self._default_rtol(v)
        space = arnoldi(point.vjp, v, rtol)
        value = space.log_form(rtol)
        figures = {"variance": torch.full_like(value, math.nan), "products": space.products}
        if gradient:
            u = space.solution
            goal = max(rtol, _finest(v))
            if bool(((space.residual > goal * space.size) & ~value.isnan()).any()):
                solved = solve_transposed(point, v, goal, start=space)
                u, figures["products"] = solved.u, solved.products
                failed = solved.failed & ~value.isnan()
                if bool(failed.any()):
                    shortfall = solved.shortfall(goal, failed)
                    what = f"did not converge: {shortfall}. Loosen LogDet(rtol=)"
                    report(failed, "the gradient of log det(I + J)", what, training=training)
            value = _with_gradient(value, point, u, v)
        return value, figures

    def _roulette(
        self, point: Linearization, *, gradient: bool, kappa: float | None
    ) -> tuple[Tensor, dict]:
        """Chen et al. (2019), equations 6 and 8, with the stopping rate taken from `kappa`."""
        exact = min(self.n_terms, 2)
        stop = min(1 - kappa if kappa is not None and kappa < 1 else 0.1, _MOST_OFTEN)
        lengths = exact + fresh_lengths(point.x, stop)
        n = int(lengths.amax()) if len(lengths) else exact
        v = fresh_probe(point.x)
        power, total, u = v, torch.zeros_like(v.flatten(1)[:, 0]), v
        for k in range(1, n + 1):
            power = point.vjp(power)
            weight = (-1) ** k * (1 - stop) ** -max(k - exact - 1, 0) * (lengths >= k).to(v)
            total = total - dot(power, v) * (weight / k)
            u = u + power * weight.view(-1, *[1] * (v.dim() - 1))
        total = _if_bounded(total, power, v)
        if gradient:
            total = _with_gradient(total, point, u, v)
        return total, {"variance": total.detach() * math.nan, "products": n}

    def seeded(self, *salt: int) -> LogDet:
        """The same settings with a seed of their own, derived from this one."""
        return replace(self, seed=mix(self.seed, *salt))


def _exact(point: Linearization, *, gradient: bool) -> Tensor:
    jacobian = point.jacobian(create_graph=gradient)
    identity = torch.eye(point.features, dtype=jacobian.dtype, device=jacobian.device)
    sign, value = dense.logdet(identity + jacobian)
    wrong = ~(sign > 0)
    if bool(wrong.any()):
        raise NoContractionError(
            f"det(I + J) <= 0 in {int(wrong.sum())} of {len(wrong)} rows: {_REMEDY}"
        )
    return value


def _if_bounded(value: Tensor, power: Tensor, v: Tensor) -> Tensor:
    """The value, NaN in rows where the last power `J^n v` is longer than any contraction's.

    A contraction in the 1-norm or the maximum norm may stretch 2-norms, by `sqrt(d)` at most.
    """
    bounded = norm(power.detach()) <= v[0].numel() ** 0.5 * norm(v) if len(v) else value == value
    return torch.where(bounded, value, torch.nan)


def _with_gradient(value: Tensor, point: Linearization, u: Tensor, v: Tensor) -> Tensor:
    """Give `value` the gradient of `u^T J v`, row by row, at the price of one double product."""
    surrogate = FirstOrder.apply(point.form(u.detach(), v))
    return value.detach() + (surrogate - surrogate.detach())


def _finest(v: Tensor) -> float:
    """What rounding leaves of a residual, relative to `v`."""
    narrow = torch.is_autocast_enabled(v.device.type)
    dtype = torch.get_autocast_dtype(v.device.type) if narrow else v.dtype
    return _ROUNDING * torch.finfo(dtype).eps


def _geometric_tail(before: float, last: float) -> float:
    """What the terms left out add up to, if they shrink as the last two did."""
    if last == 0:
        return 0.0
    ratio = last / before if before > 0 else math.inf
    return last * ratio / (1 - ratio) if ratio < 1 else math.inf


def truncation_bound(kappa: float | None, features: int, n_terms: int) -> float:
    """Bound `d sum_{k > n} kappa^k / k` of the bias of `n` terms, in nats; NaN if kappa unknown."""
    if kappa is None:
        return math.nan
    if kappa >= 1:
        return math.inf
    head = sum(kappa**k / k for k in range(1, n_terms + 1))
    return max(features * (-math.log1p(-kappa) - head), 0.0)
