"""What every config answers, whatever model it describes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, cast

from impflow_zoo.numerics.logdet import LogDet
from impflow_zoo.numerics.settings import is_real

__all__ = ["ModelConfig"]


class ModelConfig:
    """The base of configs, which are frozen dataclasses.

    A config with a setting of one of these names has a field for it. All others answer with the
    value here, so that nobody has to ask which kind of config it is.

    Attributes:
        kind: name of the kind in files.
        columns, context_columns: names of the columns and of the context columns, if they have any.
        context_features: size of a context row, or None for an unconditional density.
        classes: number of labels that contexts are, if they are labels.
        bounds: lowest and highest value by name of a column.
        periodic: the period by name of a column, or the ends of a turn.
        embedding_net: layer sizes of a net for contexts.
        logdet: how log-determinants are computed, in models that have blocks.
    """

    kind: ClassVar[str]

    columns: tuple[str, ...] = ()
    context_columns: tuple[str, ...] = ()
    context_features: int | None = None
    classes: int | None = None
    bounds: Mapping[str, tuple[float | None, ...]] = MappingProxyType({})
    periodic: Mapping[str, float | tuple[float, ...]] = MappingProxyType({})
    embedding_net: tuple[int, ...] = ()
    logdet: LogDet = LogDet()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row as the user has it."""
        raise NotImplementedError

    @property
    def turns(self) -> dict[str, tuple[float, float]]:
        """Both ends of a turn, by name of a column with a period."""
        pairs = {n: (0.0, turn) if is_real(turn) else turn for n, turn in self.periodic.items()}
        return cast(dict[str, tuple[float, float]], pairs)

    @property
    def periods(self) -> dict[str, float]:
        """The periods of columns, by name."""
        return {name: high - low for name, (low, high) in self.turns.items()}

    @property
    def block_names(self) -> tuple[str, ...]:
        """Names of the kinds of its blocks, in order, if it names them."""
        return ()

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the columns of a table, x0, x1, ... if they have none; empty for images."""
        if len(self.shape) != 1:
            return ()
        return self.columns or tuple(f"x{i}" for i in range(self.shape[0]))
