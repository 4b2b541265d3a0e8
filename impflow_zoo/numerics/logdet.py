"""The settings of log-determinants `L_g(x) = log det(I + J_g(x))`.

How each of them is computed, and why it may, stands in `estimate.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from impflow_zoo.numerics.seeds import mix
from impflow_zoo.numerics.settings import is_real, is_whole

__all__ = ["LogDet", "NoContractionError"]

MODES = ("auto", "exact", "unbiased", "truncated")
SERIES = ("solve", "roulette")
_MOST = 10_000  # terms or probes: time and memory are in proportion to them


class NoContractionError(ValueError):
    """`det(I + J) <= 0`: the net is not a contraction, the map may not be invertible."""


@dataclass(frozen=True)
class LogDet:
    """How `log det(I + J)` is computed.

    Arguments:
        mode: `"exact"` takes the dense Jacobian. `"unbiased"` is random: each call draws a fresh
            probe. `"truncated"` takes a fixed number of terms of the power series, and seeded
            probes. `"auto"` chooses by the number of features. In training it is exact up to 10
            features, and unbiased beyond. In evaluation it is exact up to 64 features. Beyond, it
            sums the series of seeded probes in a Krylov subspace of each probe. The subspace also
            approximates later terms. It stops growing when these are below `rtol`.
        series: how `"unbiased"` sums the series. With `"solve"` a Krylov subspace of the probe
            grows until `(I + J)^T u = v` is solved to `rtol`. Its bias is this tolerance, and its
            variance is finite. If 60 dimensions do not reach `rtol`, the solve for the gradient
            restarts, and the value uses the 60 dimensions. `"roulette"` is the randomly stopped
            series of Chen et al. (2019), equations 6 and 8, without bias. It stops at a rate of
            `1 - kappa`. From a rate of `1 - kappa^2` on its variance would be infinite. An unknown
            constant is taken as 0.9, which is valid up to 0.948.
        rtol: relative tolerance of `"solve"` and, in evaluation, of `"auto"` beyond 64 features.
            None is 1e-3 in float32 and 1e-8 in float64. In evaluation `"auto"` takes the tighter of
            this and the default.
        n_terms: number of terms of `"truncated"`, 10,000 at most. In evaluation it is the largest
            dimension of a Krylov subspace of `"auto"`. `"roulette"` always takes this number of
            terms, 2 at most, before it may stop.
        n_probes: number of probes that estimates in evaluation average over, 10,000 at most; the
            standard error needs two.
        seed: seed of these probes.

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
            if name != "seed" and value > _MOST:
                raise ValueError(f"LogDet({name}={value!r}): {_MOST} at most")

    @classmethod
    def of(cls, logdet: str | LogDet) -> LogDet:
        """The settings that a mode's name or a `LogDet` stands for.

        Arguments:
            logdet: the name of a mode, or a `LogDet`, which is returned as it is.

        Raises:
            TypeError: if it is neither.
            ValueError: for a name that is not that of a mode.
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
        """The mode in use: that of these settings, or the one that `"auto"` chooses.

        Arguments:
            features: numbers in a row: `D` of rows `[B, D]`, `C H W` of images `[B, C, H, W]`.
            training: whether the block is in training mode.

        Returns:
            `"exact"`, `"unbiased"` or `"truncated"`.
        """
        if self.mode != "auto":
            return self.mode
        if features <= (10 if training else 64):  # where dense Jacobians pay
            return "exact"
        return "unbiased" if training else "truncated"

    def seeded(self, *salt: int) -> LogDet:
        """The same settings with another seed, derived from this one.

        Arguments:
            salt: whole numbers that tell the uses of a seed apart, such as the number of a block.
                The same numbers give the same seed.
        """
        return replace(self, seed=mix(self.seed, *salt))
