"""Labels of images, which are an additional channel of the images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from impflow_zoo.data.columns import listed
from impflow_zoo.data.source import DataError
from impflow_zoo.numerics.settings import is_whole

__all__ = ["labelled", "read_columns"]


def read_columns(
    image: str, label: str | None, known: Mapping[str, Any], name: str, classes: int | None
) -> list[str]:
    """The columns to read of a set of images.

    Arguments:
        image, label: names of the columns; None reads no labels.
        known: the features of all columns.
        name: of the set, for messages.
        classes: number of labels that are to have names, if any have.

    Raises:
        DataError: if it has no such label, or names for another number of them.
    """
    if label is None:
        return [image]
    if label == image:
        raise DataError(f"{name}: {label!r} is the column of images, not of labels")
    if label not in known:
        raise DataError(f"{name}: no column {label!r}, only {', '.join(known)}")
    names = getattr(known[label], "names", None)
    if classes is not None and names and len(names) != classes:
        raise DataError(
            f"{name} has {len(names)} labels ({listed(names)}), the model {classes}: its numbers "
            "mean other labels"
        )
    return [image, label]


def labelled(pixels: Tensor, label: Any, name: str) -> Tensor:
    """An image, uint8 `[C, H, W]`, with its label as one more channel.

    Raises:
        DataError: if it is no whole number up to 255.
    """
    if not (is_whole(label) and 0 <= label <= 255):
        raise DataError(f"{name} has the label {label!r}: a whole number up to 255 is needed")
    return torch.cat((pixels, torch.full_like(pixels[:1], label)))
