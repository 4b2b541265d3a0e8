"""What the columns of a table are good for: which to model, and what is peculiar of each."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from impflow_zoo.data import DataError
from impflow_zoo.data.columns import GROUP, Columns, without_cell
from impflow_zoo.data.names import in_quotes, listed, shortened
from impflow_zoo.data.outliers import ABSURD, farthest
from impflow_zoo.fitting.grid import rounding_grid, spike
from impflow_zoo.fitting.stated import as_options, stated_settings
from impflow_zoo.models.fields import did_you_mean
from impflow_zoo.models.preprocessing import LOST
from impflow_zoo.numerics.settings import is_real

if TYPE_CHECKING:
    import numpy

__all__ = ["LEAST_ROWS", "Findings", "describe"]

LEAST_ROWS = 10
_LARGEST = 1e150
_LOOKED_AT = 20_000  # rows that dependence is looked for in
_COPIES = 0.01  # of the rows
_FAR_AWAY = 100  # times the distance that 90 % of the values are within
_MISSING = 0.5  # part of a column's values: with more, the column is left out, not its rows
_NUMBERED = 0.9  # part of the steps from number to number that are one, in numbers of rows
_INDEX = re.compile(r"Unnamed: \d+|__index_level_\d+__")  # of pandas, saved as a column
_DATE = re.compile(r"holds '\s*(\d{4}-\d{1,2}-\d{1,2}|\d{1,2}[./]\d{1,2}[./]\d{2,4})")
_WEIGHTS = re.compile(r"(.*[_ ])?weights?", re.IGNORECASE)
_TURNS = (360.0, 24.0, 2 * math.pi)
_LEAST_TURN, _MOST_TURNS = 0.05, 1.1
_ABOUT = 1e-3  # by which half a period may be rounded
_END, _FILLED = 0.1, 0.02  # of a turn at its ends, and of the rows that lie there
_SCALES = (1.0, 100.0)  # whose ends are often bounds
_FAR = "lies so far from zero that float32 loses its digits (subtract an offset from it)"


@dataclass(frozen=True)
class Findings:
    """What was found of the columns of a table.

    Arguments:
        columns: the columns to model, in the order of the file.
        given: the context columns.
        left_out: why each other column is left out.
        rounding: rounding steps of columns that have one.
        offsets: where the grids of these columns lie, if not at multiples of their steps.
        bounds: proposals, `[low, high]` by column.
        periods: proposals by column, the period or both ends of a turn.
        ranges: lowest and highest value by column.
        stated: bounds and periods that the user states, as settings of a config.
        notes: sentences on columns that are peculiar.
        far: sentences on values that lie far from all others.
        rows: rows without missing values.
        dropped: rows with missing values, which are left out.
    """

    columns: tuple[str, ...]
    given: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    rounding: Mapping[str, float] = field(default_factory=dict)
    offsets: Mapping[str, float] = field(default_factory=dict)
    bounds: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    periods: Mapping[str, float | tuple[float, float]] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    stated: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    far: tuple[str, ...] = ()
    rows: int = 0
    dropped: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The columns of a row, those to model first, then the context."""
        return (*self.columns, *self.given)

    def config(self) -> dict[str, Any]:
        """The settings of the columns in a config."""
        found: dict[str, Any] = {"features": len(self.columns), "columns": list(self.columns)}
        if self.given:
            found["context_columns"] = list(self.given)
        if self.rounding:
            found["rounding"] = dict(self.rounding)
        if self.offsets:
            found["rounding_offset"] = dict(self.offsets)
        return {**found, **self.stated}

    def with_stated(
        self,
        bounds: Mapping[str, Sequence[float | None]],
        periodic: Mapping[str, float | Sequence[float]],
    ) -> Findings:
        """The findings with what the user knows of columns, for which nothing is proposed then.

        A turn begins at minus half a period where the values of an angle do, so that samples are
        angles of the same kind.

        Raises:
            ModelError: as `stated_settings`.
        """
        stated = stated_settings(bounds, periodic)
        known = {*bounds, *periodic}
        for name, period in stated.get("periodic", {}).items():
            low, high = self.ranges.get(name, (0.0, 0.0))
            half = (1 + _ABOUT) * period / 2 if is_real(period) else 0.0
            if -half <= low < 0 and high <= half:
                stated["periodic"][name] = [-period / 2, period / 2]
        odd = tuple(_odd_turns(stated.get("periodic", {}), self.ranges))
        return replace(
            self,
            bounds={name: ends for name, ends in self.bounds.items() if name not in known},
            periods={name: turn for name, turn in self.periods.items() if name not in known},
            stated=stated,
            notes=(*self.notes, *odd),
        )

    def proposals(self) -> dict[str, tuple[dict[str, Any], str]]:
        """Settings that users may add to the config, by name: their values, and why."""
        found: dict[str, tuple[dict[str, Any], str]] = {}
        if self.bounds:
            ends = {name: list(pair) for name, pair in self.bounds.items()}
            found["bounds"] = ends, "all values are within these ends"
        if self.periods:
            turns = {n: [*t] if isinstance(t, tuple) else t for n, t in self.periods.items()}
            found["periodic"] = turns, "all values are within one turn and fill it"
        return found

    def lines(self, *, published: bool = False) -> list[str]:
        """The findings in lines for people.

        Arguments:
            published: leave out what cells of the table hold, and options of the command line.
        """
        found = [f"columns: {listed(self.columns)}"]
        if self.given:
            found[0] = f"density of {listed(self.columns)} given {listed(self.given)}"
        shown = without_cell if published else lambda reason: reason
        found += [f"left out: {name!r} {shown(reason)}" for name, reason in self.left_out.items()]
        grids: dict[str, list[str]] = {}
        for name, step in self.rounding.items():
            offset = f" from {self.offsets[name]:g}" if name in self.offsets else ""
            grids.setdefault(f"{step:g}{offset}", []).append(name)
        found += [
            f"rounded to {grid}: {listed(names)} (noise of one step is added)"
            for grid, names in grids.items()
        ]
        found += [f"as stated, {key}: {dict(value)}" for key, value in self.stated.items()]
        found += list(self.notes)
        if not published:
            found += self.far
            found += [
                f"if {c!r} holds the weights of the rows, give fit --weights "
                f"{shlex.quote(in_quotes(c))}: otherwise it is a column of the density"
                for c in self.columns
                if _WEIGHTS.fullmatch(c) and self.ranges.get(c, (-1.0, 0.0))[0] >= 0
            ]
            for option, (values, why) in self.proposals().items():
                text = shlex.quote(as_options({option: values})[option])
                found.append(f"you may give fit --{option} {text}  ({why})")
        missing = f", {self.dropped:,} with missing values left out" if self.dropped else ""
        return [*found, f"rows: {self.rows:,}{missing}"]


def describe(
    table: Columns,
    given: Sequence[str] = (),
    name: str = "the data",
    *,
    columns: Sequence[str] | None = None,
    choose: bool = True,
) -> Findings:
    """Look at the columns of a table.

    Arguments:
        table: its columns.
        given: names of the context columns.
        name: name of the table in messages.
        columns: names of the columns to model, which are not chosen then; None takes all others
            that have a density.
        choose: leave columns out that have no density; False refuses them, and takes a column
            that is a function of context columns.

    Raises:
        DataError: if a named column does not exist or is not numeric, or if no column or fewer
            than ten rows are left.
    """
    import numpy

    _check_named(table, (*(columns or ()), *given), name)
    if columns is not None:
        if not columns:
            raise DataError(f"{name}: no column to model is named")
        table, choose = _only(table, (*columns, *given)), False
    left_out = {c: _reason(text) for c, text in table.reasons.items() if c != GROUP}
    numbers = {c: v for c, v in table.numbers.items() if c != GROUP}
    _check_squares(numbers, name)
    for column, cells in numbers.items():
        reason = _without_use(column, cells) if choose or _is_empty(cells) else None
        if reason and column not in given:
            left_out[column] = reason
    dependent = choose or not given  # else a target may be a function of its features
    left_out, whole = _leave_out(numbers, left_out, given, name, dependent=dependent)
    rows = int(whole.sum())
    values = {c: cells[whole] for c, cells in numbers.items() if c not in left_out}
    columns = tuple(c for c in values if c not in given)
    left_out = {c: left_out[c] for c in table.names if c in left_out}
    if not choose and left_out:
        column, reason = next(iter(left_out.items()))
        raise DataError(f"column {column!r} {reason}: it has no density, leave it out")
    if not columns:
        raise _without_columns(left_out, name)
    for c in given:
        if c in left_out:
            raise DataError(f"{name}: column {c!r} {left_out[c]}: it cannot be a context")
    grids = {c: rounding_grid(values[c]) for c in columns}
    rounding = {c: step for c, (step, _) in grids.items() if step}
    offsets = {c: offset for c, (_, offset) in grids.items() if offset}
    periods = {c: turn for c in columns if (turn := _turn(values[c]))}
    plain = (c for c in columns if c not in periods)
    bounds = {
        c: ends for c in plain if (ends := _ends(values[c], rounded=c in rounding)) != (None, None)
    }
    notes = [
        f"{c!r} is {at[0]:g} in {at[1]:.0%} of the rows: its density has a spike there, which no "
        "score is meaningful with; leave the column out, or round it"
        for c in columns
        if c not in rounding and (at := spike(values[c]))
    ]
    if not rounding.keys() >= {*columns} and (copies := _copies(values)) > _COPIES * rows:
        notes.append(
            f"{copies:,} rows are copies of others: scores are too good where one is in training "
            f"and one in test; drop them, or number what belongs together in a column {GROUP!r}"
        )
    if table.groups is not None:
        notes.append(
            f"rows of one {GROUP!r} stay together, in {len(numpy.unique(table.groups[whole])):,} "
            "groups: rename the column if it is one to model"
        )
    return Findings(
        columns,
        tuple(given),
        left_out,
        rounding,
        offsets,
        bounds,
        periods,
        {c: (float(values[c].min()), float(values[c].max())) for c in columns},
        notes=tuple(notes),
        far=tuple(_far(values, numpy.flatnonzero(whole), (*columns, *given))),
        rows=rows,
        dropped=len(whole) - rows,
    )


def _leave_out(
    numbers: Mapping[str, numpy.ndarray],
    left_out: Mapping[str, str],
    given: Sequence[str],
    name: str,
    *,
    dependent: bool,
) -> tuple[dict[str, str], numpy.ndarray]:
    """Why columns are left out, and which rows have values in all others.

    Columns are judged by these rows, and a column that is left out brings back the rows that it
    has no value in. So of those with a reason the ones with most gaps go first, and the others are
    judged again.
    """
    import numpy

    left_out = dict(left_out)
    gaps = {column: (~numpy.isfinite(cells)).sum() for column, cells in numbers.items()}
    while True:
        kept = [c for c in numbers if c not in left_out]
        if not kept:
            raise _without_columns(left_out, name)
        whole = _whole_rows(numbers, kept)
        if whole.sum() < LEAST_ROWS:
            raise DataError(
                f"{name}: {whole.sum()} rows without missing values, at least {LEAST_ROWS} are "
                "needed"
            )
        values = {c: numbers[c][whole] for c in kept}
        found = {c: reason for c in kept if (reason := _without_spread(values[c]))}
        if dependent:
            found |= _dependent({c: v for c, v in values.items() if c not in found}, given)
        most = max((gaps[c] for c in found), default=0)
        left_out |= {c: reason for c, reason in found.items() if gaps[c] == most}
        if not most:  # the rows stay as they are
            return left_out, whole


def _far(
    values: Mapping[str, numpy.ndarray], numbers: numpy.ndarray, columns: Sequence[str]
) -> Iterator[str]:
    """Sentences on values that lie far from all others of their columns."""
    for column in columns:
        row, times = farthest(values[column])
        if times > _FAR_AWAY:
            many = f"{times:,.0f}" if times <= ABSURD else "over a million"
            yield (
                f"{column!r} is {values[column][row]:g} in row {numbers[row]}, {many} times "
                "as far from the median as 90 % of the values: drop the row if this is an error, "
                "as it spoils the model"
            )


def _without_columns(left_out: Mapping[str, str], name: str) -> DataError:
    reasons = shortened([f"{c!r} {reason}" for c, reason in left_out.items()])
    reasons = reasons or "none is left beside those given"
    return DataError(f"{name}: no numeric column to model: {reasons}")


def _only(table: Columns, names: Sequence[str]) -> Columns:
    """A table of some of its columns, in their order."""
    return replace(
        table, names=tuple(names), numbers={c: table.numbers[c] for c in names}, reasons={}
    )


def _check_named(table: Columns, names: Sequence[str], name: str) -> None:
    for column in names:
        if list(names).count(column) > 1:
            raise DataError(
                f"{name}: column {column!r} is named twice; a column is modelled or given, not both"
            )
        if column in table.reasons:
            raise DataError(f"{name}: column {column!r} {table.reasons[column]}")
        if column == GROUP and column in table.numbers:
            raise DataError(
                f"{name}: column {column!r} says which rows belong together: rename it to use it"
            )
        if column not in table.numbers:
            known = [*map(in_quotes, table.numbers)]  # as the command line takes them
            hint = did_you_mean(column, known) or f"; there are {listed(table.names)}"
            raise DataError(f"{name}: no column {column!r}{hint}")


def _check_squares(numbers: Mapping[str, numpy.ndarray], name: str) -> None:
    import numpy

    for column, values in numbers.items():
        sizes = numpy.where(numpy.isfinite(values), abs(values), 0.0)
        row = int(sizes.argmax()) if len(sizes) else 0
        largest = float(sizes[row]) if len(sizes) else 0.0
        if largest > _LARGEST or 0 < largest < 1 / _LARGEST:
            size = "large" if largest > 1 else "small"
            raise DataError(
                f"{name}: column {column!r} has {values[row]:.1e} in row {row}, whose square is "
                f"too {size} to compute with: divide the column by a unit, or drop such rows"
            )


def _reason(text: str) -> str:
    """Why a column that is no numbers is left out."""
    return "holds dates" if _DATE.search(text) or "timestamp" in text else text


def _is_empty(values: numpy.ndarray) -> bool:
    import numpy

    return len(values) > 0 and bool((~numpy.isfinite(values)).all())


def _without_use(column: str, values: numpy.ndarray) -> str | None:
    """Why a column of numbers is of no use by itself."""
    import numpy

    known = values[numpy.isfinite(values)]
    if len(known) < (1 - _MISSING) * len(values):
        return f"has no value in {1 - len(known) / len(values):.0%} of the rows"
    if _INDEX.fullmatch(column):
        return "has no name, as an index"
    if len(known) == len(values) > 1 and (known % 1 == 0).all():
        steps = numpy.diff(numpy.sort(values))
        if (steps > 0).all() and (steps == 1).mean() > _NUMBERED:
            return "numbers the rows"
    return _without_spread(known) if len(known) else None


def _without_spread(values: numpy.ndarray) -> str | None:
    """Why values without gaps are no numbers to model."""
    import numpy

    if values.min() == values.max():
        return "is constant"
    rounding_of_float32 = float(numpy.finfo(numpy.float32).eps)  # models compute in it
    if abs(values.mean()) * rounding_of_float32 > LOST * values.std():
        return _FAR
    return None


def _whole_rows(numbers: Mapping[str, numpy.ndarray], kept: Sequence[str]) -> numpy.ndarray:
    """Which rows have all values."""
    import numpy

    return numpy.logical_and.reduce([numpy.isfinite(numbers[column]) for column in kept])


def _copies(values: Mapping[str, numpy.ndarray]) -> int:
    """How many rows have the same values as an earlier one."""
    import pandas

    return int(pandas.DataFrame(dict(values)).duplicated().sum())


def _dependent(values: Mapping[str, numpy.ndarray], given: Sequence[str]) -> dict[str, str]:
    """Columns that others determine: copies and exact linear functions, by the reason."""
    import numpy

    count = len(next(iter(values.values()), ()))
    some = numpy.random.default_rng(0).permutation(count)[:_LOOKED_AT]  # a table may be sorted
    rows = len(some)
    scaled = {}
    for name, column in values.items():
        part = column[some] - column[some].mean()
        if part.any():  # else nothing can be said of it
            scaled[name] = part / max(float(numpy.linalg.norm(part)), 1e-300)
    basis: list[numpy.ndarray] = []
    independent: list[str] = []
    reasons: dict[str, str] = {}
    for name in sorted(scaled, key=lambda c: c not in given):  # contexts first
        rest = scaled[name]
        for _ in range(2):  # the second time takes what rounding has left
            for direction in basis:
                rest = rest - (direction @ rest) * direction
        size = float(numpy.linalg.norm(rest))
        if size > 1e-6 or name in given or 2 * len(basis) >= rows:
            if size > 1e-6:
                basis.append(rest / size)
                independent.append(name)
            continue
        others = numpy.column_stack([scaled[c] for c in independent])
        weights = numpy.linalg.lstsq(others, scaled[name], rcond=None)[0]
        used = [c for c, w in zip(independent, weights, strict=True) if abs(w) > 1e-6]
        same = len(used) == 1 and numpy.array_equal(values[used[0]], values[name])
        reasons[name] = (
            f"is a copy of {used[0]!r}"
            if same
            else f"is an exact linear function of {shortened([repr(c) for c in used])}"
        )
    return reasons


def _odd_turns(
    periodic: Mapping[str, Any], ranges: Mapping[str, tuple[float, float]]
) -> Iterator[str]:
    """Sentences on periods that values do not look like, such as 360 of an angle in radians."""
    for name in [name for name in periodic if name in ranges]:
        turn, (low, high) = periodic[name], ranges[name]
        period = turn if is_real(turn) else turn[-1] - turn[0]
        if period > 0 and not _LEAST_TURN <= (turns := (high - low) / period) <= _MOST_TURNS:
            yield (
                f"the values of {name!r} extend over {turns:.2g} turns of {period:g}: check the "
                "period. A wrong one spoils the density and its score"
            )


def _turn(values: numpy.ndarray) -> float | tuple[float, float] | None:
    """The period of what seems to be an angle or an hour: the values fill one turn, both ends.

    The two ends of a turn that does not begin at zero.
    """
    low, high = float(values.min()), float(values.max())
    for turn in _TURNS:
        for start in (0.0, -turn / 2):
            slack = 1.0 if turn == 24 else 0.03 * turn
            if not start - 1e-6 <= low <= start + slack <= high:
                continue
            if not start + turn - slack <= high <= start + turn * (1 + 1e-6):
                continue
            ends = (values < start + _END * turn, values > start + (1 - _END) * turn)
            if all(part.mean() > _FILLED for part in ends):
                return (start, start + turn) if start else turn
    return None


def _ends(values: numpy.ndarray, *, rounded: bool) -> tuple[float | None, float | None]:
    """The bounds of what seems to be a part, a percentage, or a quantity without a sign.

    Only rounded values may reach them: a density has no value on its bound.
    """
    import numpy

    low, high = float(values.min()), float(values.max())
    least = 0.0 if rounded else float(numpy.finfo(numpy.float32).tiny)  # models compute in it
    if not least <= low < 0.05 * float(values.std()):
        return None, None
    for scale in _SCALES:
        if 0.95 * scale <= high <= scale and (rounded or numpy.float32(high) < scale):
            return 0.0, scale
    return 0.0, None
