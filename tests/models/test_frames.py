"""Arrays and DataFrames where a person would try them, rounded samples, settings by name."""

from __future__ import annotations

import math

import numpy
import pandas
import pytest
import torch
from support.small_models import config, make, rows

from impflow_zoo import ImpFlow, TabularConfig, evaluate
from impflow_zoo.data import DataError
from impflow_zoo.data.spreadsheets import as_csv
from impflow_zoo.models.fields import ConfigError, ModelError

NAMES = {"columns": ("a", "b"), "context_columns": ("t",)}


def frame_of(x: torch.Tensor, names: str = "ab") -> pandas.DataFrame:
    return pandas.DataFrame(x.numpy(), columns=list(names))


def test_densities_of_arrays_and_frames():
    model, x = make(columns=("a", "b")), rows()
    expected = model.log_prob(x)
    frame = frame_of(x)[["b", "a"]].assign(word="x")
    assert torch.equal(model.log_prob(frame), expected)
    assert torch.equal(model.log_prob(x.numpy()), expected)
    assert torch.equal(model.log_prob_with_error(frame)[0], expected)
    assert torch.equal(model.encode(x.numpy()), model.encode(x))
    whole = frame_of(x.round())
    assert torch.equal(model.log_prob(whole.astype(int)), model.log_prob(x.round()))


def test_a_table_of_halves_is_scored_as_one_of_floats():
    model, halves = make(columns=("a", "b")), rows().bfloat16()
    assert evaluate(model, halves).value == evaluate(model, halves.float()).value


def test_a_frame_holds_its_contexts():
    model, x = make(**NAMES).eval(), rows()
    t = torch.linspace(-1, 1, len(x), dtype=torch.float64)[:, None]
    frame = frame_of(x).assign(t=t.numpy())
    expected = model.log_prob(x, t)
    for answer in (
        model.log_prob(frame),
        model.log_prob(x.numpy(), t.numpy()),
        model.log_prob(x, frame),
    ):
        assert torch.equal(answer, expected)
    generator = torch.Generator().manual_seed(0)
    drawn = model.sample(3, frame[:2], generator=generator, as_frame=True)
    assert list(drawn.columns) == ["a", "b", "t"]
    assert drawn["t"].tolist() == numpy.repeat(t[:2, 0].numpy(), 3).tolist()


def test_models_know_their_columns():
    assert make(columns=("a", "b")).columns == ("a", "b")
    model = make()
    assert model.columns == ("x0", "x1")
    assert list(model.sample(2, as_frame=True).columns) == ["x0", "x1"]


def test_the_names_that_samples_have_are_those_of_their_columns():
    """Also of a model without names, if rows of a sample come back in another order."""
    model = make(features=11).eval()
    drawn = model.sample(4, as_frame=True)
    turned = drawn[drawn.columns[::-1]]
    assert torch.equal(model.log_prob(turned), model.log_prob(drawn))
    assert evaluate(model, turned).value == evaluate(model, drawn).value
    other = drawn.rename(columns="own {}".format)
    assert torch.equal(model.log_prob(other), model.log_prob(drawn))


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (pandas.DataFrame({"a": [1.0]}), ModelError, "no column 'b', only a"),
        (pandas.DataFrame({"a": [1.0], "b": ["x"]}), ModelError, "column 'b' is not numeric"),
        (numpy.zeros((2, 3)), ModelError, r"\(2, 3\): this model takes \[B, 2\]"),
        (numpy.array([["x", "y"]]), DataError, "an array of shape .* numbers"),
        (numpy.array([[1.0, numpy.nan]]), ValueError, "NaN or infinity in 1 of 1"),
    ],
)
def test_rows_that_do_not_fit_are_named(data, error, message):
    with pytest.raises(error, match=message):
        make(columns=("a", "b")).log_prob(data)


def test_samples_are_rounded_as_the_data_are():
    model = make(columns=("a", "b"), rounding={"b": 0.1}, bounds={"b": (0.05, None)})
    drawn = model.sample(200, rounded=True, generator=torch.Generator().manual_seed(0))
    plain = model.sample(200, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn[:, 0], plain[:, 0])
    assert (drawn[:, 1] - plain[:, 1]).abs().max() <= 0.05 + 1e-9
    text = frame_of(drawn).to_csv()
    assert all(len(line.rpartition(",")[2]) <= 5 for line in text.splitlines())
    assert drawn[:, 1].min() >= 0.05


def test_columns_that_are_not_rounded_have_the_digits_of_the_model_in_a_file():
    model = make(columns=("a", "b"), rounding={"b": 0.1}).float()
    noise = torch.Generator()
    drawn = model.sample(50, rounded=True, as_frame=True, generator=noise.manual_seed(0))
    plain = model.sample(50, generator=noise.manual_seed(0))
    assert list(map(str, drawn.dtypes)) == ["float32", "float64"]
    assert torch.equal(torch.tensor(drawn["a"]), plain[:, 0])
    for line in as_csv(drawn.convert_dtypes()).decode().splitlines()[1:]:
        a, b = (len(cell.lstrip("-0.").replace(".", "")) for cell in line.split(","))
        assert a <= 9
        assert b <= 2
    assert str(model.double().sample(2, rounded=True, as_frame=True)["a"].dtype) == "float64"


@pytest.mark.parametrize(
    ("step", "offset"),
    [(1.0, 0.5), (2.0, 1.0), (0.1, 0.05), (1 / 3, 0.2), (1e-10, 0.0), (0.29, 0.0)],
)
def test_rounded_samples_lie_on_the_grid_of_the_data(step, offset):
    settings = {"columns": ("a", "b"), "rounding": {"b": step}, "rounding_offset": {"b": offset}}
    drawn = make(**settings).sample(100, rounded=True)[:, 1]
    points = (drawn - offset) / step
    assert (points - points.round()).abs().max() < 1e-3
    assert len(drawn.unique()) > 1
    if step == 1:
        assert bool((drawn % 1 == 0.5).all())


@pytest.mark.parametrize("unit", [1e-30, 1e-16, 1e12])
def test_rounded_samples_keep_the_unit_of_their_column(unit):
    model = make(columns=("a", "b"), rounding={"b": unit})
    model.fit_preprocessing(torch.randn(100, 2).double() * torch.tensor([1, 9 * unit]))
    drawn = model.sample(200, rounded=True)[:, 1] / unit
    assert (drawn - drawn.round()).abs().max() < 1e-6
    assert len(drawn.unique()) > 10


@pytest.mark.parametrize(
    ("period", "step", "offset", "points"),
    [(24.0, 1.0, 0.0, 24), (24.0, 1.0, 0.5, 24), (0.6, 0.2, 0.0, 3), (2 * math.pi, 0.1, 0.03, 63)],
)
def test_rounded_angles_lie_within_a_turn(period, step, offset, points):
    """23.7 o'clock is rounded to 0, as 24 is no value of the data."""
    settings = {"columns": ("a", "b"), "rounding": {"a": step}, "rounding_offset": {"a": offset}}
    model = make(**settings, periodic={"a": period})
    drawn = model.preprocessing.rounded(torch.linspace(0, period, 5000)[:-1, None].repeat(1, 2))
    expected = torch.arange(points, dtype=torch.float64) * step + offset
    torch.testing.assert_close(drawn[:, 0].unique(), expected)


def test_only_a_rounded_column_has_an_offset():
    with pytest.raises(ConfigError, match="rounding_offset='a'"):
        config(columns=("a", "b"), rounding={"b": 0.5}, rounding_offset={"a": 0.5})


def test_rounding_by_name_is_rounding_by_place():
    named = config(columns=("a", "b"), rounding={"b": 0.5})
    assert named == config(columns=("a", "b"), rounding=(0.0, 0.5))
    assert config(columns=("a", "b"), rounding={}) == config(columns=("a", "b"))
    loaded = ImpFlow({"kind": "tabular", "features": 1, "columns": ["a"], "rounding": {"a": 1}})
    assert loaded.config.rounding == (1.0,)


@pytest.mark.parametrize("setting", ["rounding", "rounding_offset", "bounds", "periodic"])
def test_a_name_that_is_none_is_answered_by_a_close_one(setting):
    value = (0.0, 1.0) if setting == "bounds" else 1.0
    message = f"{setting}: there is no column 'speeed'.*'speed'"
    with pytest.raises(ConfigError, match=message):
        TabularConfig(1, columns=("speed",), **{setting: {"speeed": value}})


@pytest.mark.parametrize("setting", ["rounding", "rounding_offset", "bounds", "periodic"])
def test_settings_by_name_ask_for_the_names_of_all_columns(setting):
    value = (0.0, 1.0) if setting == "bounds" else 1.0
    with pytest.raises(
        ConfigError, match=f"{setting}: there is no column 'a'; list all .*'columns'"
    ):
        TabularConfig(1, **{setting: {"a": value}})
