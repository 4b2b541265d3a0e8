"""The models that a server shows, and the rows beside each."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from nflows.transforms.autoregressive import AutoregressiveTransform
from torch import Tensor

from impflow_zoo.data import Batch, DataError, Source, is_toy
from impflow_zoo.demo.workers import Workers
from impflow_zoo.evaluation.processes import together
from impflow_zoo.evaluation.rows import scored_split
from impflow_zoo.evaluation.scores import error_unit
from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.registry import create_model, list_models
from impflow_zoo.models.rows import open_rows

__all__ = ["Exhibit", "Hall", "Rows"]

_DRAWN = {1: 500, 3: 8}  # samples that stand for rows where there are none, by dimensions of a row
_SPREAD_OF = 100  # rows, as in `evaluate`
_FEW, _MANY_COLUMNS = 100, 20  # samples of models that find many columns one after the other


class Rows(Source):
    """Rows held in memory, under the numbers that they have in a larger set: noise goes by these.

    Arguments:
        name: what they are.
        rows: as a source reads them, contexts included.
        first: the number of the first.
    """

    def __init__(self, name: str, rows: Tensor, first: int = 0) -> None:
        super().__init__(name, len(rows))
        self._rows, self._first = rows, first

    def read(self, indices: Sequence[int] | Tensor) -> Batch:
        index = torch.as_tensor(indices, dtype=torch.int64)
        return Batch(index + self._first, self._rows[index])

    def part(self, rows: range) -> Source:
        return Rows(self.name, self._rows[rows.start : rows.stop], self._first + rows.start)


@dataclass(frozen=True, eq=False)
class Exhibit:
    """A model and rows of its kind.

    Arguments:
        name: of the model.
        model: in evaluation mode.
        held_out: rows that it was not trained on; None if there are none at hand.
        note: why there are none, if somebody asked for them.
    """

    name: str
    model: FlowModel
    held_out: Source | None = None
    note: str = ""

    @property
    def in_plane(self) -> bool:
        """Whether the density is one of the plane, given nothing."""
        config = self.model.config
        return config.shape == (2,) and config.context_features is None

    @cached_property
    def rows(self) -> Source:
        """Held-out rows, or else samples, contexts included."""
        if self.held_out is not None:
            return self.held_out
        samples = _samples_with_contexts(self.model, self.count).cpu()
        rows = samples.double() if samples.is_floating_point() else samples
        return Rows(self.rows_in_words, rows)

    @cached_property
    def error_unit(self) -> Tensor:
        """What errors of rows are divided by, from the first rows."""
        rows, _ = self.model.parted(self.rows.rows(range(min(_SPREAD_OF, self.count))))
        return error_unit(rows)

    @property
    def count(self) -> int:
        """The number of `rows`, known before any is drawn."""
        if self.held_out is not None:
            return len(self.held_out)
        return self.in_time(_DRAWN[len(self.model.config.shape)])

    def in_time(self, n: int) -> int:
        """How many samples are drawn where this many are wanted: few if each takes long."""
        slow = any(isinstance(part, AutoregressiveTransform) for part in self.model.modules())
        return min(n, _FEW) if slow and len(self.columns) > _MANY_COLUMNS else n

    @property
    def rows_in_words(self) -> str:
        """What the rows are."""
        return "the held-out data" if self.held_out else "samples of the model"

    def first_rows(self, n: int) -> Tensor | None:
        """Up to this many held-out rows, contexts included; None if there are none."""
        source = self.held_out
        return None if source is None else source.rows(range(min(n, len(source))))

    @cached_property
    def columns(self) -> list[str]:
        """Names of the columns of a table, those of the context last."""
        return [*self.model.config.column_names, *self.context_columns]

    @cached_property
    def context_columns(self) -> list[str]:
        """Names of the columns of contexts, made up where there are none."""
        config = self.model.config
        named = list(config.context_columns)
        return named or [f"c{i}" for i in range(config.context_features or 0)]


@torch.no_grad()
def _samples_with_contexts(model: FlowModel, n: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    size = model.config.context_features
    if size is None:
        return model.sample(n, generator=generator)
    noise = torch.randn(n, size, generator=generator)
    contexts = model.parts[0].transform.like(noise.to(next(model.parameters())))
    samples = model.sample(1, contexts, generator=generator)[:, 0]
    if samples.dim() == 2:
        return torch.cat((samples, contexts), dim=1)
    labels = contexts.to(samples.dtype)[:, :, None, None]
    return torch.cat((samples, labels.expand_as(samples[:, :1])), dim=1)


class Hall:
    """The models of a server, each opened once for all users.

    Arguments:
        first: the model to begin with.
        data, split: rows to show, see `evaluate`; with None those that come with a model, or
            that the package makes.
        device: where to compute.
        scratch: folder for files that nobody needs after the server.
        workers: processes that read users' files.

    Raises:
        ModelError, DataError: if the first model or its data cannot be opened.
    """

    def __init__(
        self,
        first: str,
        data: str | None,
        split: str | None,
        device: str | None,
        scratch: Path,
        workers: Workers,
    ) -> None:
        self.first, self.scratch, self.workers = first, scratch, workers
        self._data, self._split, self._device = data, split, device
        self.names = list(dict.fromkeys((first, *list_models())))
        self._opened, self._opening = functools.cache(self._open), threading.Lock()
        if note := self.open(first).note:
            raise DataError(note)

    def open(self, name: str) -> Exhibit:
        """A model and its rows.

        Raises:
            ModelError, HfHubHTTPError: if the model cannot be opened.
        """
        with self._opening:
            return self._opened(name)

    def _open(self, name: str) -> Exhibit:
        model = create_model(name, device=together(self._device).device)
        try:
            where = scored_split(model, self._data, self._split)
        except ModelError as error:
            return Exhibit(name, model, note=str(error) if self._data else "")
        if self._data is None and not (is_toy(where.dataset) or os.path.exists(where.dataset)):
            return Exhibit(name, model)
        try:
            source = open_rows(model.config, where.dataset, where.split, where.revision)
            return Exhibit(name, model, source)
        except (DataError, ModelError) as error:
            return Exhibit(name, model, note=str(error))
