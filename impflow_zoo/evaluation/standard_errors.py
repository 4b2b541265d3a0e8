"""Standard errors of means over rows, clustered by group where rows come in groups.

Rows of one group are alike, as the patches of a photograph are: a mean over them varies more than
one over as many independent rows. With residuals `r_i = x_i - mean(x)` of `n` rows in `G` groups,
the error of the mean is

    sqrt(G / (G - 1) * sum_g (sum of r_i in group g)^2) / n

the sandwich estimator of a regression on a constant, with the usual correction for a finite number
of groups. Only groups have to be independent of each other. If every row is a group of its own,
it is the standard deviation over `sqrt(n)`.

References:
    A Practitioner's Guide to Cluster-Robust Inference (Cameron & Miller, 2015)
    https://doi.org/10.3368/jhr.50.2.317
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["clustered", "same_groups", "standard_error"]


def standard_error(values: Tensor, groups: Tensor | None = None) -> Tensor:
    """The standard error of the mean of the last dimension.

    Arguments:
        values: with shape `(*, n)`.
        groups: the group of each row, whole numbers with shape `(n,)`; None for independent rows.

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
    residuals = values - values.mean(dim=-1, keepdim=True)
    count = n
    if groups is not None:
        if groups.shape != (n,):
            raise ValueError(f"{n} rows need as many groups, not {list(groups.shape)}")
        kinds, index = groups.unique(return_inverse=True)
        count = len(kinds)
        sums = residuals.new_zeros(*residuals.shape[:-1], count)
        residuals = sums.index_add(-1, index, residuals)
    if count < 2:
        return residuals.new_full(residuals.shape[:-1], torch.nan)
    return (count / (count - 1) * residuals.square().sum(dim=-1)).sqrt() / n


def same_groups(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether the rows of two scores come in the same groups, or in none."""
    if one is None or other is None:
        return one is other
    return torch.equal(one, other)


def clustered(groups: int | None) -> str:
    """What is said behind an error of rows in so many groups; nothing for independent rows."""
    return "" if groups is None else f", clustered by {groups:,} groups"
