"""Contexts on the command line: `AT=20,V=40`, or a file with one row per context.

A name with a comma, or a space in front, stands in double quotes: `"Cement, dry"=20,Water=40`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

from impflow_zoo.cli.options import by_name, number
from impflow_zoo.data import open_table
from impflow_zoo.data.labels import LabelNumbers
from impflow_zoo.data.names import in_quotes, listed
from impflow_zoo.models.config import Config
from impflow_zoo.models.fields import ModelError, did_you_mean
from impflow_zoo.models.image_config import ImageConfig

__all__ = ["read_given"]


def read_given(given: str | None, config: Config) -> Tensor | None:
    """Read contexts, float64 with shape `[C, context_features]`.

    Arguments:
        given: `NAME=VALUE,...` with each context column once, in any order; or a table file, which
            may have other columns, too. In the former, a label of images may be given by its name.
        config: the config of the model.

    Raises:
        ModelError: if a column is missing, unknown, given twice or not a finite number, or the
            model takes no contexts, or its contexts have no names.
        DataError: if a file cannot be read, or its context columns are not numeric.
    """
    names = tuple(config.context_columns)
    if config.context_features is None:
        if given is None:
            return None
        raise ModelError("this model is unconditional: leave --given out, or fit one with --given")
    if not names:
        raise ModelError("this model's contexts have no names: sample it from Python, with tensors")
    if given is None:
        example = ",".join(f"{in_quotes(name)}=..." for name in names)
        shown = f"'{example}'" if '"' in example else example
        raise ModelError(f"this model is conditional: add --given {shown}, or --given FILE")
    if "=" in given and not os.path.exists(given):  # a Path refuses long names
        row = _pairs(given, names)
        if isinstance(config, ImageConfig):
            return torch.tensor([[_label(names[0], row[names[0]], config)]], dtype=torch.float64)
        found = [number("--given", name, row[name]) for name in names]
        return torch.tensor([found], dtype=torch.float64)
    source = open_table(given, columns=names)
    rows = source.rows(range(len(source)))
    if isinstance(config, ImageConfig):
        rows = torch.tensor([[_label(names[0], row, config)] for row in rows[:, 0].tolist()])
    return rows.double()


def _pairs(given: str, names: Sequence[str]) -> dict[str, str]:
    found = by_name("--given", given)
    for name in found:
        if name not in names:
            hint = did_you_mean(name, [*map(in_quotes, names)]) or f"; they are {listed(names)}"
            raise ModelError(f"--given: {name!r} is not a context column{hint}")
    missing = [name for name in names if name not in found]
    if missing:
        raise ModelError(f"--given: {listed(missing)} missing: every context column is needed")
    return found


def _label(name: str, value: str | float, config: ImageConfig) -> float:
    """The number of a label, which is given as its name or as a number."""
    numbers = LabelNumbers(config.class_names, config.classes or 0)
    found = numbers.find(value) if isinstance(value, str) else None
    with suppress(ValueError):  # of what is no number
        if found is None and (plain := float(value)).is_integer():
            found = numbers.find(int(plain))
    if found is None:
        raise ModelError(f"--given: {name}={value} is not a label; they are {numbers}")
    return found
