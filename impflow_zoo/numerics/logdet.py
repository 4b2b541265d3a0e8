"""The settings of log-determinants `L_g(x) = log det(I + J_g(x))`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from impflow_zoo.numerics.seeds import mix
from impflow_zoo.numerics.settings import is_real, is_whole

__all__ = ["LogDet", "NoContractionError"]

MODES = ("auto", "exact", "unbiased", "truncated")
SERIES = ("solve", "roulette")


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
        if features <= (10 if training else 64):  # where dense Jacobians pay
            return "exact"
        return "unbiased" if training else "truncated"

    def seeded(self, *salt: int) -> LogDet:
        """The same settings with a seed of their own, derived from this one."""
        return replace(self, seed=mix(self.seed, *salt))
