"""Transforms that see the label of a class as a one-hot vector."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from nflows.transforms import Transform
from torch import Tensor, nn
from torch.nn import functional

from impflow_zoo.numerics.modes import seen
from impflow_zoo.transforms.context import ConditionalTransform

__all__ = ["LabelError", "OneHotContext", "PerLabel"]


class LabelError(ValueError):
    """A context is not one of the labels."""


class OneHotContext(ConditionalTransform):
    """A whole map that takes labels, `[B, 1]`, from 0; its parts see one-hot vectors.

    Arguments:
        steps, shape: as in `WholeTransform`.
        classes: number of labels.
    """

    def __init__(self, steps: Iterable[Transform], shape: tuple[int, ...], classes: int) -> None:
        super().__init__(steps, shape, 1)
        self.classes = classes

    def embedded(self, context: Tensor) -> Tensor:
        """One-hot vectors.

        Arguments:
            context: labels with shape `[B, 1]`.

        Returns:
            Ones and zeros in the type of the labels, with shape `[B, classes]`.

        Raises:
            LabelError: for what is no whole number from 0 to `classes - 1`.
        """
        labels, last = context[:, 0].long(), self.classes - 1
        wrong = (labels != context[:, 0]) | (labels < 0) | (labels > last)
        if bool(seen(wrong).any()):
            label = float(seen(context)[seen(wrong)][0, 0])
            raise LabelError(f"{label:g} is not a label: a whole number from 0 to {last} is needed")
        return functional.one_hot(labels, self.classes).to(context.dtype)

    def like(self, noise: Tensor) -> Tensor:
        return (noise.abs() * self.classes).floor() % self.classes


class PerLabel(Transform):
    """`(z - mean) / scale` of each row, `[B, D]`, with a mean and a scale for each label.

    So a standard normal base density has its own mean and scale for each label.

    Arguments:
        features: size of a row.
        classes: number of labels, which are given as one-hot vectors.
    """

    no_weights = True  # for optimizers: these matrices are shifts and scales

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(classes, features))
        self.log_scale = nn.Parameter(torch.zeros(classes, features))

    def forward(self, inputs: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Data -> noise.

        Arguments:
            inputs: rows `x` with shape `[B, features]`.
            context: the one-hot vector of each row, with shape `[B, classes]`.

        Returns:
            `z` with the shape of `x`, and `log|det dz/dx|` with shape `[B]`.

        Raises:
            RuntimeError: for rows or labels of another size.
            TypeError: without labels.
        """
        log_scale = context @ self.log_scale
        return (inputs - context @ self.mean) * (-log_scale).exp(), -log_scale.sum(dim=1)

    def inverse(self, inputs: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Noise -> data.

        Arguments:
            inputs: rows `z` with shape `[B, features]`.
            context: the one-hot vector of each row, with shape `[B, classes]`.

        Returns:
            `x` with the shape of `z`, and `log|det dx/dz|` with shape `[B]`.

        Raises:
            RuntimeError: for rows or labels of another size.
            TypeError: without labels.
        """
        log_scale = context @ self.log_scale
        return inputs * log_scale.exp() + context @ self.mean, log_scale.sum(dim=1)
