"""Standard errors of means over rows, clustered by group where rows come in groups.

Rows of one group are alike, as the patches of a photograph are: a mean over them varies more than
one over as many independent rows. With residuals `r_i = x_i - mean(x)` of `n` rows in `G` groups,
the error of the mean is

    sqrt(G / (G - 1) * sum_g (sum of w_i r_i in group g)^2) / sum_i w_i

with the weights `w_i` of the rows, which are 1 if all rows count alike, and `mean(x)` weighted: the
sandwich estimator of a regression on a constant, with the usual correction for a finite number
of groups. Only groups have to be independent of each other. If every row is a group of its own, and
all count alike, it is the standard deviation over `sqrt(n)`. A row of weight 2 counts as two rows
in the mean, but it is one observation: the error is larger than with two independent rows.

References:
    A Practitioner's Guide to Cluster-Robust Inference (Cameron & Miller, 2015)
    https://doi.org/10.3368/jhr.50.2.317
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["clustered", "effective_rows", "same_groups", "standard_error", "weighted_mean"]


def weighted_mean(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """The mean of the last dimension.

    Arguments:
        values: with shape `(*, n)`.
        weights: the weight of each row, positive, with shape `(n,)`; None counts all alike.
    """
    if weights is None:
        return values.mean(dim=-1)
    weights = weights.to(values)
    return (values * weights).sum(dim=-1) / weights.sum()


def effective_rows(weights: Tensor) -> float:
    """The number of rows of one weight whose mean of independent values is as uncertain."""
    return float(weights.sum() ** 2 / weights.square().sum())


def standard_error(
    values: Tensor, groups: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """The standard error of the mean of the last dimension.

    Arguments:
        values: with shape `(*, n)`.
        groups: the group of each row, whole numbers with shape `(n,)`; None for independent rows.
        weights: the weight of each row, positive, with shape `(n,)`; None counts all alike.

    Returns:
        Errors with shape `(*)`, NaN for a single row or a single group.

    Raises:
        ValueError: if there is not one group for each row.

    Example:
        >>> values = torch.tensor([1.0, 1.0, 3.0, 3.0])
        >>> standard_error(values, torch.tensor([0, 0, 1, 1]))
        tensor(1.)
    """
    n = values.shape[-1]
    residuals = values - weighted_mean(values, weights)[..., None]
    count, total = n, float(n)
    if weights is not None:
        residuals, total = residuals * weights.to(values), float(weights.sum())
    if groups is not None:
        if groups.shape != (n,):
            raise ValueError(f"{n} rows need as many groups, not {list(groups.shape)}")
        kinds, index = groups.unique(return_inverse=True)
        count = len(kinds)
        sums = residuals.new_zeros(*residuals.shape[:-1], count)
        residuals = sums.index_add(-1, index, residuals)
    if count < 2:
        return residuals.new_full(residuals.shape[:-1], torch.nan)
    return (count / (count - 1) * residuals.square().sum(dim=-1)).sqrt() / total


def same_groups(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether the rows of two scores come in the same groups, or have the same weights, or none."""
    if one is None or other is None:
        return one is other
    return torch.equal(one, other)


def clustered(groups: int | None) -> str:
    """What follows an error in a message: the number of groups; nothing for independent rows."""
    return "" if groups is None else f", clustered by {groups:,} groups"
