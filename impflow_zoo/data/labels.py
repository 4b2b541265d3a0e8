"""Labels of images, which are an additional channel of the images."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from impflow_zoo.data.names import listed
from impflow_zoo.data.source import DataError
from impflow_zoo.numerics.settings import is_whole

__all__ = ["LabelNumbers", "Labels"]


class LabelNumbers:
    """The number that a model has for each of its labels.

    Where a name is a number itself, such as `"3"`, whole numbers are names, too. Elsewhere they
    count the names from 0.

    Arguments:
        names: the model's names of its labels in the order of their numbers; may be empty.
        classes: number of the model's labels.

    Example:
        >>> cats = LabelNumbers(["cat", "dog"], 2)
        >>> cats.find("dog"), cats.find(1), str(cats)
        (1, 1, 'cat, dog')
        >>> digits = LabelNumbers(["3", "5"], 2)
        >>> digits.find(5), digits.find(1)
        (1, None)
    """

    def __init__(self, names: Sequence[str], classes: int) -> None:
        self.names, self._classes = names, classes
        self._numbers = {text: i for i, text in enumerate(names or map(str, range(classes)))}
        self._numerals = any(text.isdecimal() for text in self._numbers)

    def __str__(self) -> str:
        return listed(self.names) if self.names else f"the numbers from 0 to {self._classes - 1}"

    def find(self, label: Any) -> int | None:
        """The number of a label, which is a name or a whole number; None if there is none."""
        if is_whole(label) and self._numerals:
            label = str(label)
        if isinstance(label, str):
            return self._numbers.get(label)
        return label if is_whole(label) and 0 <= label < self._classes else None


class Labels:
    """The column of labels of a set of images, and the numbers that a model has for them.

    A set may give its labels as numbers, or as text: so do folders of images, whose names are the
    labels. A text is found among the model's names of labels. Without such names it has to be the
    number itself, as the names of MNIST are. The numbers that a set gives its own names do not
    count, since they change when a name is added.

    Arguments:
        column: name of the column.
        known: the features of all columns of the set.
        image: name of the column of images.
        name: of the set, for messages.
        numbers: of the model's labels.

    Raises:
        DataError: if the set has no such column, or a label that the model has not.
    """

    def __init__(
        self,
        column: str,
        known: Mapping[str, Any],
        image: str,
        name: str,
        numbers: LabelNumbers,
    ) -> None:
        if column == image:
            raise DataError(f"{name}: {column!r} is the column of images, not of labels")
        if column not in known:
            raise DataError(f"{name}: no column {column!r}, only {listed(known)}")
        self.column, self._numbers = column, numbers
        self._own = getattr(known[column], "names", None) or ()  # of the set's numbers
        if any(numbers.find(text) is None for text in self._own):
            raise DataError(f"{name} has the labels {listed(self._own)}, {self._expected()}")

    def add(self, pixels: Tensor, example: Mapping[str, Any], name: str) -> Tensor:
        """An image, uint8 `[C, H, W]`, with its label as one more channel.

        Arguments:
            pixels: the image.
            example: the cells of its row.
            name: of the image, for messages.

        Raises:
            DataError: if the model has no such label.
        """
        label = example[self.column]
        if self._own and is_whole(label) and 0 <= label < len(self._own):
            label = self._own[label]
        number = self._numbers.find(label)
        if number is None:
            raise DataError(f"{name} has the label {reprlib.repr(label)}, {self._expected()}")
        return torch.cat((pixels, torch.full_like(pixels[:1], number)))

    def _expected(self) -> str:
        if self._numbers.names:
            return f"the model has {self._numbers}"
        return (
            f"the model has {self._numbers}: for other labels, list their names in "
            "config.class_names, in the order of their numbers"
        )
