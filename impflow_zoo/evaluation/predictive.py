"""Errors, scores and coverage of the predictions of a conditional density.

All are estimated from samples, in the same way for every model.

References:
    Strictly Proper Scoring Rules, Prediction, and Estimation (Gneiting & Raftery, 2007)
    https://doi.org/10.1198/016214506000001437

    The continuous ranked probability score for circular variables (Grimit et al., 2006)
    https://doi.org/10.1256/qj.05.235
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from impflow_zoo.evaluation.processes import Processes
from impflow_zoo.evaluation.standard_errors import weighted_mean
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.numerics.seeds import Use, mix

__all__ = ["Predictive", "centred", "crps", "crps_of_angles", "drawn", "pit", "predictive"]

_DRAWS = 99  # make 100 ranks, of which the central 50 % and 90 % are whole numbers
_ROWS = 100  # predicted at a time
_LEVELS = (0.5, 0.9)


@dataclass(frozen=True)
class Predictive:
    """How well a column is predicted from the context.

    Errors of angles are measured the shorter way round; intervals lie around the mean direction.
    The RMSE of an angle takes the mean direction of 99 samples. If they go all round the circle,
    this direction is mostly noise, and only the CRPS tells good predictions from bad ones.

    Arguments:
        column: its name.
        rmse: root mean square error of the mean, in units of the column.
        crps: continuous ranked probability score in these units, lower is better.
        within_50, within_90: fraction of the rows within the central intervals of 50 % and 90 %.
    """

    column: str
    rmse: float
    crps: float
    within_50: float
    within_90: float

    def __str__(self) -> str:
        return (
            f"{self.column}: RMSE {self.rmse:.4g}, CRPS {self.crps:.4g}, inside the 50 % interval "
            f"{self.within_50:.1%}, the 90 % interval {self.within_90:.1%}"
        )


@torch.no_grad()
def drawn(model: FlowModel, context: Tensor, seed: int) -> Tensor:
    """Samples at each context, `[N, draws, D]`."""
    generator = torch.Generator().manual_seed(seed)
    return model.sample(_DRAWS, context, generator=generator)


def predictive(
    model: FlowModel,
    x: Tensor,
    context: Tensor,
    seed: int,
    weights: Tensor | None = None,
    processes: Processes | None = None,
) -> tuple[Predictive, ...]:
    """How well each column of rows, `[N, D]`, is predicted from their contexts, `[N, C]`.

    Arguments:
        model: the conditional density.
        x, context: the rows.
        seed: of the samples.
        weights: of the rows, `[N]`; None counts all alike.
        processes: share the rows; each has all of them.
    """
    processes = processes or Processes()
    parts = list(zip(x.split(_ROWS), context.split(_ROWS), strict=True))
    own = [
        _figures(model, *parts[i], mix(seed, Use.PREDICTED, i)) for i in processes.share(len(parts))
    ]
    none = torch.zeros(len(model.columns), 2 + len(_LEVELS), 0, dtype=torch.float64)
    means = weighted_mean(torch.cat(processes.gather(torch.cat([none, *own], dim=2)), 2), weights)
    means[:, 0] = means[:, 0].clamp(min=0).sqrt()
    return tuple(
        Predictive(name, *(float(f"{value:.5g}") for value in column))
        for name, column in zip(model.columns, means.tolist(), strict=True)
    )


def _figures(model: FlowModel, x: Tensor, context: Tensor, seed: int) -> Tensor:
    """Squared error, CRPS, and whether intervals hold the row: `[D, figures, N]`, on the CPU."""
    samples, x = drawn(model, context, seed).double(), x.double()
    around, place = _around(model, _mean_direction(model, samples), samples, x)
    # The mean of few samples is noisy: its variance does not belong to the error.
    square = (around.mean(dim=1) - place) ** 2 - around.var(dim=1) / samples.shape[1]
    samples, x = centred(model, samples, x)
    scores = crps(samples, x)
    for name, period in model.config.periods.items():
        i = model.columns.index(name)
        scores[:, i] = crps_of_angles(samples[:, :, i], x[:, i], period)
    off = (pit(samples, x) - 0.5).abs()
    within = [(off < level / 2).double() for level in _LEVELS]
    return torch.stack((square, scores, *within)).permute(2, 0, 1).cpu()


def centred(model: FlowModel, samples: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Samples, `[N, m, D]`, and rows, `[N, D]`: angles as what they differ by from their mean.

    The mean direction is that of samples and row together. So it treats both alike, and the rank of
    a row among samples of its own density is uniform, even if these go all round the circle.
    """
    together = torch.cat((samples, x[:, None]), dim=1)
    return _around(model, _mean_direction(model, together), samples, x)


def _mean_direction(model: FlowModel, points: Tensor) -> Tensor:
    """Of angles at each context, `[N, m, D]` to `[N, D]`; zero for other columns."""
    mean = torch.zeros_like(points[:, 0])
    for name, period in model.config.periods.items():
        i, turn = model.config.columns.index(name), 2 * math.pi / period
        angles = turn * points[:, :, i]
        mean[:, i] = torch.atan2(angles.sin().mean(dim=1), angles.cos().mean(dim=1)) / turn
    return mean


def _around(model: FlowModel, mean: Tensor, samples: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Samples and rows less a mean of each row, angles the shorter way round."""
    difference = model.preprocessing.difference
    means = mean.repeat_interleave(samples.shape[1], dim=0)
    around = difference(samples.flatten(0, 1), means).view_as(samples)
    return around, difference(x, mean)


def crps_of_angles(samples: Tensor, x: Tensor, period: float) -> Tensor:
    """`crps` with distances the shorter way round (Grimit et al., 2006), `[N, m]` and `[N]`."""
    m = samples.shape[1]

    def distance(others: Tensor) -> Tensor:
        apart = (samples - others).remainder(period)
        return torch.minimum(apart, period - apart).mean(dim=1)

    pairs = sum(distance(samples.roll(k, dims=1)) for k in range(1, m))
    return distance(x[:, None]) - pairs / (2 * (m - 1))


def crps(samples: Tensor, x: Tensor) -> Tensor:
    """`E|X - x| - E|X - X'|/2` of each row and column, without bias from the number of samples.

    Arguments:
        samples: with shape `[N, m, D]`.
        x: what was observed, `[N, D]`.
    """
    m = samples.shape[1]
    ranks = torch.arange(1, m + 1, dtype=samples.dtype, device=samples.device)[:, None]
    # Sorted, the pairwise differences add up to sum_i (2 i - m - 1) X_i.
    apart = ((2 * ranks - m - 1) * samples.sort(dim=1).values).sum(dim=1) / (m * (m - 1))
    return (samples - x[:, None]).abs().mean(dim=1) - apart


def pit(samples: Tensor, x: Tensor) -> Tensor:
    """Where each observation lies among its samples, in (0, 1): uniform if these are right."""
    below = (samples < x[:, None]).sum(dim=1)
    return (below + 0.5) / (samples.shape[1] + 1)
