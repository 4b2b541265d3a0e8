"""What `describe` finds of columns: which it leaves out and why, steps, bounds, periods."""

from __future__ import annotations

import json
import math
import re

import numpy
import pandas
import pytest
import torch

from impflow_zoo.data import DataError
from impflow_zoo.data.frames import in_memory
from impflow_zoo.fitting import Findings, describe
from impflow_zoo.fitting.grid import rounding_grid
from impflow_zoo.models.fields import ModelError

ROWS = 400
RANDOM = numpy.random.default_rng(0)
A, B = RANDOM.normal(size=(2, ROWS))


def found(given: tuple[str, ...] = (), **columns: object) -> Findings:
    """The findings of a table of two plain columns and others."""
    table = in_memory(pandas.DataFrame({"a": A, "b": B, **columns}))
    assert table is not None
    return describe(table, given)


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (["x"] * ROWS, "is not numeric, it is"),
        (pandas.date_range("2024-01-01", periods=ROWS), "holds dates"),
        (numpy.full(ROWS, 3.0), "is constant"),
        (numpy.arange(ROWS), "numbers the rows"),
        (RANDOM.permutation(ROWS) + 1, "numbers the rows"),
        (numpy.delete(numpy.arange(ROWS + 9), range(0, 90, 10)) + 1000, "numbers the rows"),
        (A, "is a copy of 'a'"),
        (100 * A - 3, "is an exact linear function of 'a'"),
        (A + B, "is an exact linear function of 'a', 'b'"),
        (numpy.where(A > 0.5, B, numpy.nan), "has no value in 7"),
        (2**53 + 2 * numpy.arange(ROWS), "holds whole numbers above 2^53"),
        (1e9 + A, "from zero that float32 loses its digits"),
        (-1.7e9 - A**3, "from zero that float32 loses its digits"),
    ],
)
def test_a_column_without_a_density_is_left_out_with_its_reason(column, reason):
    findings = found(c=column)
    assert findings.columns == ("a", "b")
    assert reason in findings.left_out["c"]
    assert any(line.startswith("left out: 'c' ") for line in findings.lines())


def test_rows_of_a_sorted_table_are_looked_at_everywhere():
    """In its first rows a column may be constant, or a copy of another."""
    generator = numpy.random.default_rng(0)
    year = numpy.repeat([2020.0, 2021.0], 20_000)
    x, y = generator.normal(size=(2, 40_000))
    y[:25_000] = x[:25_000]
    rare = numpy.where(numpy.arange(40_000) == 7, 1.0, 0.0)  # in some rows it is constant
    table = in_memory(pandas.DataFrame({"year": year, "rare": rare, "x": x, "y": y}))
    assert describe(table).columns == ("year", "rare", "x", "y")


def test_names_with_a_comma_are_in_quotes():
    findings = found(("a",), **{"c, d": numpy.round(3 * A + B**2)})
    first, *_, rounded, _ = findings.lines()
    assert first == 'density of b, "c, d" given a'
    assert rounded.startswith('rounded to 1: "c, d" (')


def test_reasons_of_a_file(tmp_path):
    from impflow_zoo.fitting.reading import read_table

    path = tmp_path / "own.csv"
    lines = [f"{i},2024-01-{i % 28 + 1:02d},{x},north" for i, x in enumerate(A)]
    path.write_text("\n".join([",when,a,site", *lines]))
    findings = describe(read_table(path).first)
    assert findings.columns == ("a",)
    assert dict(findings.left_out) == {
        "Unnamed: 0": "has no name, as an index",
        "when": "holds dates",
        "site": "is not numeric, row 0 holds 'north'",
    }


def test_rows_with_missing_values_are_counted():
    findings = found(c=numpy.where(numpy.arange(ROWS) < 7, numpy.nan, A**3))
    assert (findings.rows, findings.dropped) == (ROWS - 7, 7)
    assert findings.lines()[-1] == "rows: 393, 7 with missing values left out"


FLAG = RANDOM.random(ROWS) < 0.7


def test_a_column_that_is_left_out_costs_no_rows():
    findings = found(garage=numpy.where(FLAG, 1.0, numpy.nan), copy=numpy.where(FLAG, A, numpy.nan))
    assert findings.columns == ("a", "b")
    assert findings.left_out == {"garage": "is constant", "copy": "is a copy of 'a'"}
    assert (findings.rows, findings.dropped) == (ROWS, 0)


@pytest.mark.parametrize("flag", [1.0, A])
def test_columns_are_judged_by_the_rows_that_are_used(flag):
    """Not by those where a column has values that is left out."""
    where = numpy.where(FLAG, flag, numpy.nan)
    findings = found(
        way=numpy.where(FLAG, 0.0, B**3), whole=numpy.where(FLAG, A.round(), A), x=where
    )
    assert findings.columns == ("a", "b", "way", "whole")
    assert findings.rounding == {}


def test_a_column_with_missing_values_that_is_modelled_costs_their_rows():
    findings = found(way=numpy.where(FLAG, 0.0, B**3), x=numpy.where(FLAG, A**2, numpy.nan))
    assert findings.columns == ("a", "b", "x")
    assert findings.left_out == {"way": "is constant"}
    assert findings.rows == FLAG.sum()


@pytest.mark.parametrize(
    ("values", "step"),
    [
        (A, 0.0),
        (numpy.round(A, 1), 0.1),
        (numpy.round(1000 + A, 2).astype(numpy.float32).astype(float)[:100].repeat(2), 0.01),
        (numpy.round(4 * A) / 4, 0.25),
        (numpy.round(3 * A) / 3, 1 / 3),
        (numpy.round(5 * A) * 10, 10.0),
        (numpy.arange(ROWS) * 7.0, 1.0),
        (A > 0, 1.0),
        (numpy.where(A < 0, 0, A), 0.0),
        (1e30 * A, 0.0),
    ],
)
def test_the_rounding_step_is_that_of_the_grid(values, step):
    assert rounding_grid(numpy.asarray(values, float)) == (pytest.approx(step, rel=1e-9), 0)


@pytest.mark.parametrize(
    ("step", "offset"), [(1, 0.5), (2, 1), (0.1, 0.05), (10, 3), (1 / 3, 0.2), (0.25, 0.1)]
)
def test_a_grid_may_lie_beside_the_multiples_of_its_step(step, offset):
    values = numpy.round(8 * A) * step + offset
    assert rounding_grid(values) == pytest.approx((step, offset), rel=1e-9)


@pytest.mark.parametrize("unit", [1e-7, 1e-9, 1e-20, 1e-100])
def test_values_in_a_large_unit_have_a_grid_like_others(unit):
    assert rounding_grid(numpy.round(8 * A) * unit) == (pytest.approx(unit), 0)
    continuous = unit * numpy.append(A, A[:3])  # some of which repeat
    assert rounding_grid(continuous) == (0, 0)


def test_a_frequent_value_of_a_continuous_column_is_named():
    (note,) = found(c=numpy.where(A < 0, 0, A * B)).notes
    assert note.startswith("'c' is 0 in ")
    assert "its density has a spike there" in note


def test_copies_of_rows_are_named():
    twice = pandas.DataFrame({"a": A, "b": B}).loc[[*range(ROWS), *range(7)]]
    (note,) = describe(in_memory(twice)).notes
    assert note.startswith("7 rows are copies of others")
    assert describe(in_memory(twice.round(1))).notes == ()  # rounded rows may well be alike


def test_it_is_said_that_groups_stay_together():
    (note,) = found(group=numpy.arange(ROWS) % 4).notes
    assert note.startswith("rows of one 'group' stay together, in 4 ")


def test_bounds_and_periods_are_proposed_and_not_assumed():
    uniform = RANDOM.random(ROWS)
    findings = found(part=uniform**2, size=numpy.exp(2 * A), turn=360 * RANDOM.random(ROWS))
    assert findings.bounds == {"part": (0.0, 1.0), "size": (0.0, None)}
    assert findings.periods == {"turn": 360.0}
    assert findings.config() == {
        "features": 5,
        "columns": ["a", "b", "part", "size", "turn"],
    }
    lines = "\n".join(findings.lines())
    assert "you may give fit --bounds part=0:1,size=0:  (all values are within" in lines
    assert "you may give fit --periodic turn=360  (all values are within one turn" in lines


def test_options_are_quoted_as_a_shell_needs_them():
    assert (
        found(**{"E, [GeV]": numpy.exp(2 * A)})
        .lines()[1]
        .startswith("""you may give fit --bounds '"E, [GeV]"=0:'  """)
    )


def test_a_value_far_from_all_others_is_told_and_not_published():
    energy = 20 * numpy.abs(B)
    energy[17] = 99999
    findings = found(energy=energy, b=numpy.where(numpy.arange(ROWS) == 3, numpy.nan, B))
    (line,) = (line for line in findings.lines() if "99999" in line)
    assert re.match(r"'energy' is 99999 in row 17, \d,\d{3} times as far from the median", line)
    assert not any("99999" in line for line in findings.lines(published=True))


def test_an_absurd_value_is_told_without_thirty_digits():
    energy = 20 * numpy.abs(B)
    energy[17] = 1e30
    (line,) = found(energy=energy).far
    assert "over a million times" in line
    assert len(line) < 200


def test_long_tails_are_not_far_from_all_others():
    assert found(incomes=numpy.exp(1.5 * A), counts=numpy.floor(numpy.exp(A))).far == ()


@pytest.mark.parametrize("end", [0.0, 1.0, 1 - 1e-9])
def test_bounds_that_values_reach_are_proposed_for_rounded_columns_alone(end):
    """A density has no value on its bound: stated, these would be refused."""
    part = RANDOM.random(ROWS)
    part[:3] = end, 0.004, 0.996
    reached = 0 if end < 0.5 else 1  # in float32
    findings = found(part=part, rounded=part.round(2))
    assert findings.bounds["rounded"] == (0.0, 1.0)
    assert findings.bounds.get("part", (None, None))[reached] is None


def test_bounds_and_periods_may_be_numbers_of_numpy():
    bounds = {"a": (numpy.float32(-9), numpy.inf), "b": numpy.array([-9, 9])}
    stated = found().with_stated(bounds, {}).stated
    assert stated == {"bounds": {"a": [-9.0, None], "b": [-9, 9]}}
    assert json.loads(json.dumps(stated)) == stated
    periodic = found().with_stated({}, {"a": numpy.int64(24)}).stated
    assert json.dumps(periodic) == '{"periodic": {"a": [-12.0, 12.0]}}'


def test_a_turn_of_radians_in_float32_begins_at_minus_pi():
    angle = numpy.linspace(-math.pi, math.pi, ROWS).astype("float32")
    for stated in (math.tau, 6.283):
        (ends,) = found(angle=angle).with_stated({}, {"angle": stated}).stated["periodic"].values()
        assert ends == [-stated / 2, stated / 2]


@pytest.mark.parametrize("stated", [360, [-180, 180], numpy.array([-180, 180])])
def test_a_turn_begins_where_the_values_do(stated):
    angle = 360 * RANDOM.random(ROWS) - 180
    proposed = found(angle=angle)
    assert proposed.periods == {"angle": (-180.0, 180.0)}
    assert any("--periodic angle=-180:180 " in line for line in proposed.lines())
    findings = proposed.with_stated({}, {"angle": stated})
    assert findings.stated == {"periodic": {"angle": [-180, 180]}}
    assert findings.notes == ()
    assert found(angle=angle + 180).with_stated({}, {"angle": 360}).stated["periodic"] == {
        "angle": 360
    }


@pytest.mark.parametrize(("period", "turns"), [(180, "2"), (math.tau, "57"), (1e5, "0.0036")])
def test_a_period_that_values_do_not_look_like_is_told(period, turns):
    angle = 360 * numpy.arange(ROWS) / ROWS
    (note,) = found(angle=RANDOM.permutation(angle)).with_stated({}, {"angle": period}).notes
    assert note.startswith(f"the values of 'angle' extend over {turns} turns of {period:g}: check")


def test_a_column_that_is_called_weight_may_be_weights():
    hint = "if 'event_weight' holds the weights of the rows, give fit --weights event_weight"
    assert any(hint in line for line in found(event_weight=numpy.exp(A)).lines())
    assert not any("--weights" in line for line in found(event_weight=A, weighty=B**3).lines())


def test_other_columns_keep_their_proposals():
    findings = found(part=RANDOM.random(ROWS), size=numpy.exp(A), angle=360 * RANDOM.random(ROWS))
    assert {*findings.bounds} == {"part", "size"}
    stated = findings.with_stated({"part": (0, 1)}, {})
    assert ({*stated.bounds}, {*stated.periods}) == ({"size"}, {"angle"})


@pytest.mark.parametrize(
    ("bounds", "periodic", "message"),
    [
        ("a=0:", {}, "bounds='a=0:': a dictionary"),
        ({}, ["a"], "periodic=.'a'.: a dictionary"),
        *(
            ({}, {"a": turn}, "periodic of a=.*: a number is needed, or the ends")
            for turn in ("x", None, True, [], [1], ["a", "b"], [None, 180], {"x": 1})
        ),
        ({"a": 0}, {}, "bounds of a=0: .low, high. is needed"),
    ],
)
def test_what_are_no_bounds_or_periods(bounds, periodic, message):
    with pytest.raises(ModelError, match=message):
        found().with_stated(bounds, periodic)


def test_context_columns_are_no_columns_of_the_density():
    findings = found(("b",), c=A + B)
    assert (findings.columns, findings.given) == (("a",), ("b",))
    assert findings.left_out["c"] == "is an exact linear function of 'b', 'a'"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("bb", "no column .bb.; .*'b'"),
        ("dry", """no column .dry.; .*'" dry"'"""),
        ("zzz", "no column .zzz.; .* a, b, word"),
        ("word", "column 'word' is not numeric"),
    ],
)
def test_a_context_that_is_none_is_refused(given, message):
    with pytest.raises(DataError, match=message):
        found((given,), word=["x"] * ROWS, **{" dry": A**3})


def test_the_column_of_groups_is_no_context():
    with pytest.raises(DataError, match="which rows belong together: rename it"):
        found(("group",), group=numpy.arange(ROWS) // 4)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pandas.DataFrame({"a": A[:9]}), "9 rows without missing values, .*10"),
        (pandas.DataFrame({"a": ["x"] * 20}), "no numeric column .*'a' is not numeric"),
        (pandas.DataFrame({"a": numpy.ones(20)}), "no numeric column .*'a' is constant"),
        (numpy.zeros(3), r"an array of shape \[3\]"),
        (pandas.DataFrame([[1, 2]], columns=["a", "a"]), "several columns are called 'a'"),
    ],
)
def test_a_table_without_a_density_is_refused(frame, message):
    with pytest.raises(DataError, match=message):
        describe(in_memory(frame))


def test_values_that_cannot_be_squared_and_contexts_given_twice_are_refused():
    with pytest.raises(DataError, match="column 'a' has -?1.0e.308 in row"):
        found(a=numpy.where(A > 0, 1e308, -1e308), b=B)
    with pytest.raises(DataError, match="column 'a' has 1.0e.308 in row 3"):
        found(a=numpy.where(numpy.arange(ROWS) == 3, 1e308, A), b=B)
    with pytest.raises(DataError, match="column 'a' has .*e-200 in row .*too small"):
        found(a=1e-200 * A, b=B)
    with pytest.raises(DataError, match="column 'b' is named twice"):
        describe(in_memory(pandas.DataFrame({"a": A, "b": B})), ("b", "b"))


def test_named_columns_are_taken_in_their_order_and_refused_where_they_have_no_density():
    frame = pandas.DataFrame({"id": range(len(A)), "a": A, "b": B, "c": A * B, "name": "x"}).assign(
        one=1
    )
    table = in_memory(frame)
    findings = describe(table, ("a",), columns=("c", "b"))
    assert (findings.columns, findings.given, findings.left_out) == (("c", "b"), ("a",), {})
    for columns, message in {
        ("c", "name"): "column 'name' is not numeric",
        ("c", "one"): "column 'one' is constant: it has no density",
        ("c", "nam"): "no column 'nam'; there are id, a, b, c, name, one",
        ("c", "a"): "column 'a' is named twice",
        (): "no column to model is named",
    }.items():
        with pytest.raises(DataError, match=message):
            describe(table, ("a",), columns=columns)


@pytest.mark.parametrize("convert", [torch.from_numpy, lambda rows: rows, pandas.DataFrame])
def test_tables_in_memory(convert):
    table = in_memory(convert(numpy.column_stack([A, B])))
    assert [numpy.array_equal(v, w) for v, w in zip(table.numbers.values(), (A, B), strict=True)]
    assert in_memory([[1.0]]) is None


@pytest.mark.parametrize("values", [A, A.round().astype(int)])
def test_what_is_masked_is_missing(values):
    masked = numpy.ma.masked_array(values[:, None], mask=values[:, None] > 1)
    table = in_memory(masked)
    assert numpy.array_equal(numpy.isnan(table.numbers["x0"]), values > 1)


def test_a_grid_is_found_in_few_rows():
    values = numpy.round(450 + 17 * numpy.random.default_rng(1).normal(size=700), 2)
    assert len(set(values)) > 0.9 * len(values)
    assert rounding_grid(values) == (0.01, 0)
