"""What the page shows, without the page: rows, numbers, pictures, files."""

from __future__ import annotations

import functools
import math
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pandas
import pytest
import torch
from support.image_models import make as make_images
from support.small_models import make, write_recipe

from impflow_zoo import Ensemble, ResFlow, SplineConfig, SplineFlow, create_model, evaluate
from impflow_zoo.data import DataError, open_table
from impflow_zoo.demo.exhibits import Exhibit, Hall, Rows
from impflow_zoo.demo.looks import rounded
from impflow_zoo.demo.numbers import bounds_of_nets, margin_in_words, numbers_of
from impflow_zoo.demo.page import first_picture
from impflow_zoo.demo.uploads import read_upload, score_file
from impflow_zoo.demo.workers import Workers
from impflow_zoo.lipschitz.certify import Certificate, certify
from impflow_zoo.models.fields import ModelError

pytest.importorskip("matplotlib")
DEFAULT = "impflow-power-plant"


@functools.cache
def power_plant() -> Exhibit:
    model = create_model(DEFAULT)
    shipped = model.folder.path / "test.parquet"
    return Exhibit(DEFAULT, model, open_table(shipped, columns=model.config.columns))


def space(**settings: object) -> Exhibit:
    model = make(features=3, columns=("a", "b", "c"), dtype=torch.float32, **settings)
    return Exhibit("space", model)


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    found = Workers()
    yield found
    found.close()


def file(folder: Path, text: str) -> Path:
    path = folder / "mine.csv"
    path.write_text(text, newline="")
    return path


def test_the_numbers_of_a_row_are_those_that_evaluation_finds(tmp_path):
    exhibit = power_plant()
    result = evaluate(exhibit.model, limit=6)
    numbers = numbers_of(exhibit.model, Rows("row", exhibit.rows.rows([5]), 5))
    assert numbers.log_prob == pytest.approx(float(result.per_row[5]), rel=1e-5)
    assert numbers.error == 0
    assert 0 < numbers.round_trip < 1e-3
    assert min(numbers.steps, numbers.steps_back) > 1
    assert numbers.lines["log-density"] == f"{numbers.log_prob:.3f} nats"  # exact: no error of it
    assert "bits/dim" not in numbers.lines
    assert "iterations per root" in numbers.lines


def test_round_trip_errors_of_rows_are_in_standard_deviations_as_evaluation_has_them():
    model = make(features=3, columns=("a", "b", "c"), dtype=torch.float32)
    rows = torch.randn(100, 3, dtype=torch.float64) * torch.tensor([1.0, 0.1, 0.01]) + 3
    exhibit = Exhibit("space", model, Rows("rows", rows))
    torch.testing.assert_close(exhibit.error_unit, rows.std(dim=0, correction=0))
    # A single row may come back without any error.
    plain, found = (
        [numbers_of(model, Rows("row", rows[[row]]), unit) for row in range(10)]
        for unit in (1.0, exhibit.error_unit)
    )
    assert max(one.round_trip for one in found) > max(one.round_trip for one in plain) > 0
    assert found[0].lines["round-trip error"].endswith(", in standard deviations of a column")


@pytest.mark.parametrize("settings", [{}, {"context_columns": ("g",)}], ids=["plain", "given"])
@torch.no_grad()
def test_an_ensemble_has_a_picture_and_numbers_without_latents(settings):
    exhibit = Exhibit("several", Ensemble([space(**settings).model for _ in range(2)]))
    first_picture(exhibit)
    row = exhibit.rows.rows([3])
    numbers = numbers_of(exhibit.model, Rows("row", row))
    x, context = exhibit.model.parted(row)
    assert numbers.log_prob == pytest.approx(float(exhibit.model.log_prob(x, context)), abs=1e-4)
    assert [*numbers.lines] == ["log-density"]


def test_a_log_density_is_given_in_one_unit():
    """A second one beside it, of the opposite sign, is read as the same figure."""
    toy = Exhibit("toy", make(metric="bits", dtype=torch.float32))
    numbers = numbers_of(toy.model, toy.rows)
    assert numbers.lines["log-density"] == f"{numbers.log_prob:.3f} nats"
    assert "bits" not in " ".join([*numbers.lines, *numbers.lines.values()])
    images = Exhibit("images", make_images())
    numbers = numbers_of(images.model, images.rows)
    bits = float(images.model.preprocessing.metric(torch.tensor(numbers.log_prob)))
    assert "log-density" not in numbers.lines
    assert numbers.lines["bits/dim"].startswith(f"{bits:.3f}")
    assert numbers.lines["bits/dim"].endswith(", lower is better")
    assert "nats" not in " ".join(numbers.lines.values())


def test_roots_are_counted_where_there_are_any():
    exhibit = Exhibit("residual", make(ResFlow, dtype=torch.float32))
    lines = numbers_of(exhibit.model, exhibit.rows).lines
    assert re.fullmatch(r"\d+\.\d decoding", lines["iterations per root"])  # none the other way


def test_a_model_without_rows_shows_samples():
    exhibit = space()
    assert exhibit.first_rows(5) is None
    assert exhibit.rows_in_words == "samples of the model"
    assert exhibit.rows.read([0]).rows.shape == (1, 3)
    assert torch.equal(exhibit.rows.rows([3]), Exhibit("again", exhibit.model).rows.rows([3]))


def test_of_a_model_that_finds_many_columns_one_by_one_few_samples_are_drawn():
    drawn = []
    for features, layers in ((21, "autoregressive"), (20, "autoregressive"), (21, "coupling")):
        config = SplineConfig(features, blocks=2, hidden_features=8, layers=layers)
        exhibit = Exhibit("splines", SplineFlow(config).eval())
        assert exhibit.count == len(exhibit.rows)
        drawn.append((exhibit.count, exhibit.in_time(1000)))
    assert drawn == [(100, 100), (500, 1000), (500, 1000)]


def test_samples_of_conditional_models_come_with_their_contexts():
    model = make(features=1, context_features=2, dtype=torch.float32)
    exhibit = Exhibit("given", model)
    assert exhibit.columns == ["x0", "c0", "c1"]
    assert exhibit.rows.rows([0]).shape == (1, 3)
    assert numbers_of(model, exhibit.rows).latents.shape == (1,)
    labelled = make_images(context_columns=("label",), classes=3)
    images = Exhibit("images", labelled).rows.rows([0, 1, 2])
    assert images.dtype == torch.uint8
    assert images.shape == (3, 4, 4, 4)
    assert int(images[:, -1].max()) < 3


def test_a_click_on_the_map_gives_the_point_under_it():
    from impflow_zoo.demo.drawing import density_map

    found = density_map(Exhibit("plane", make(dtype=torch.float32)))
    assert len(found.panels) == 2
    x, y = found.low[0] + 0.25 * (found.high[0] - found.low[0]), found.middle[1]
    for left, top, right, bottom in found.panels:
        pixel = (left + 0.25 * (right - left), (top + bottom) / 2)
        assert found.point(pixel) == pytest.approx((x, y))
        marked = found.marked((x, y))
        assert marked.getpixel(tuple(map(round, pixel)))[0] > 200
        assert marked.getpixel(tuple(map(round, pixel))) != found.picture.getpixel((0, 0))
    assert found.point((0, 0)) is None


def test_the_predictive_density_moves_with_the_context():
    from impflow_zoo.demo.drawing import samples_picture

    exhibit = Exhibit("given", make(features=1, context_features=2, dtype=torch.float32))
    one, other = (samples_picture(exhibit, 0, 1.0, given) for given in ((0.0, 0.0), (2.0, -2.0)))
    assert one.size == other.size
    assert one.tobytes() != other.tobytes()
    assert samples_picture(exhibit, 0, 1.0, (0.0, 0.0)) is one


@pytest.mark.parametrize("features", [1, 3])
def test_angles_are_drawn_within_one_turn(features):
    from impflow_zoo.demo.drawing import samples_picture

    given = {"context_features": 1} if features == 1 else {}
    names = ("angle", "a", "b")[:features]
    model = make(
        features=features, columns=names, periodic={"angle": 4.0}, dtype=torch.float32, **given
    )
    rows = torch.rand(50, features + len(given), dtype=torch.float64)
    turned = rows + torch.tensor([4.0] + [0.0] * (rows.shape[1] - 1))
    pictures = (
        samples_picture(Exhibit("angles", model, Rows("rows", x)), 0, 1.0, (0.0,) * len(given))
        for x in (rows, turned)
    )
    one, other = (picture.tobytes() for picture in pictures)
    assert one == other


def test_temperature_and_seed_change_the_samples():
    from impflow_zoo.demo.drawing import samples_picture

    exhibit = space()
    pictures = [samples_picture(exhibit, *s).tobytes() for s in ((0, 1.0), (1, 1.0), (0, 0.5))]
    assert len({*pictures}) == 3


def test_images_are_drawn_and_interpolated():
    from impflow_zoo.demo.drawing import samples_picture, way_picture

    exhibit = Exhibit("images", make_images().float())
    assert samples_picture(exhibit, 0, 1.0).size[0] > 100
    width, height = way_picture(exhibit.model, exhibit.rows.rows([0, 1])).size
    assert 0.5 * height < width < 2 * height  # which can be read on a phone


def test_certificates_are_put_in_words():
    stated = certify(make())
    assert margin_in_words(stated) == (
        "Every block is invertible: each of its 4 nets has a Lipschitz constant of at most 0.8000."
    )
    assert [row[:2] for row in bounds_of_nets(stated)] == [["4", "0.8000"]]
    assert "invertible by construction" in margin_in_words([])
    assert margin_in_words([Certificate("mine", None)]).startswith("Not certified: ")
    assert margin_in_words([Certificate("mine", 1.5)]).startswith("Not certified: its net has")


@pytest.mark.parametrize(
    ("model", "first", "last"),
    [
        (lambda: make(), "block 1, net_x", "block 2, net_z"),
        (lambda: Ensemble([make(), make()]), "model 1, block 1, net_x", "model 2, block 2, net_z"),
        (lambda: make_images(), "scale 1, block 1, net_x", "scale 2, block 1, net_z"),
    ],
    ids=["table", "ensemble", "images"],
)
def test_nets_have_names_that_a_person_can_read(model, first, last):
    names = [one.name for one in certify(model())]
    lines = bounds_of_nets([Certificate(name, i / 100) for i, name in enumerate(names)])
    assert (lines[0][-1], lines[-1][-1]) == (first, last)
    assert len({line[-1] for line in lines}) == len(names)


def test_nets_of_one_bound_are_a_range_of_which_others_may_be_left_out():
    bounds = {"0.net": 0.9, "1.net": 0.8, "2.net": 0.8, "3.net": 0.9}
    lines = bounds_of_nets([Certificate(name, bound) for name, bound in bounds.items()])
    assert [line[-1] for line in lines] == [
        "some from block 1, net to block 4, net",
        "block 2, net to block 3, net",
    ]


def test_bounds_are_rounded_and_grouped_as_they_are_shown():
    bounds = (0.95, 0.949999, 0.950001, 0.95004, 0.99999, 1.5, None)
    lines = bounds_of_nets([Certificate("mine", bound) for bound in bounds])
    assert [tuple(line[:2]) for line in lines] == [
        ("3", "0.9500"),
        ("1", "0.9501"),
        ("1", "0.99999"),
        ("1", "1.5"),
        ("1", "none"),
    ]


def test_a_file_comes_back_with_a_column_more(workers, tmp_path):
    path = file(tmp_path, "c,note,a,b\n1.50,x,2,3\n4,,5,6\n\n")
    exhibit = space()
    scored = score_file(exhibit, path, tmp_path, workers)
    table = pandas.read_csv(scored.out, dtype=str, keep_default_na=False)
    assert [*table.columns] == ["c", "note", "a", "b", "log_prob"]
    assert table.c.tolist() == ["1.50", "4"]  # as they were written
    rows = torch.tensor([[2.0, 3.0, 1.5], [5.0, 6.0, 4.0]])
    found = torch.tensor(table.log_prob.astype(float).to_numpy()).float()
    torch.testing.assert_close(found, exhibit.model.log_prob(rows).detach())
    mean, error = float(found.mean()), float((found[0] - found[1]).abs()) / 2
    assert scored.text == f"mine.csv: 2 rows, mean log-density {rounded(mean, error)} nats"
    assert str(tmp_path) not in scored.rows.name
    numbers = numbers_of(exhibit.model, Rows("row", scored.rows.rows([1]), 1))
    assert numbers.log_prob == pytest.approx(float(found[1]), rel=1e-5)


def test_the_error_of_a_mean_counts_groups(workers, tmp_path):
    """Not rows: those of a group are alike."""
    path = file(tmp_path, "a,b,c,group\n" + "1,2,3,p\n" * 50 + "4,5,6,q\n" * 50)
    scored = score_file(space(), path, tmp_path, workers)
    found = torch.tensor(pandas.read_csv(scored.out).log_prob.tolist())
    error = float((found[0] - found[-1]).abs()) / 2
    said = f"mean log-density {rounded(float(found.mean()), error)} nats"
    assert scored.text == f"mine.csv: 100 rows, {said}, clustered by 2 groups"


@pytest.fixture
def weighing(tmp_path):
    """A model whose recipe names a column of weights."""
    folder = tmp_path / "weighing"
    model = make(features=3, columns=("a", "b", "c"), dtype=torch.float32)
    model.save_pretrained(folder)
    write_recipe(
        folder,
        config={"features": 3, "columns": ["a", "b", "c"]},
        data={"dataset": "own", "weights": "w"},
    )
    return Exhibit("weighing", create_model(folder))


def test_the_mean_of_a_file_has_the_weights_that_evaluation_has(weighing, workers, tmp_path):
    path = file(tmp_path, "a,b,c,w\n1,2,3,2\n9,9,9,0\n4,5,6,1\n7,8,9,3\n")
    scored = score_file(weighing, path, tmp_path, workers)
    found = evaluate(weighing.model, path)
    assert (found.weights, found.n) == ("w", 3)
    mean = rounded(found.value, found.stderr)
    assert scored.text == f"mine.csv: 4 rows, mean log-density {mean} nats, weighted by w"
    assert pandas.read_csv(scored.out).log_prob.notna().all()  # that of weight 0, too


def test_a_file_without_the_weights_of_a_recipe_says_that_all_rows_count_alike(
    weighing, workers, tmp_path
):
    scored = score_file(weighing, file(tmp_path, "a,b,c\n1,2,3\n4,5,6\n"), tmp_path, workers)
    found = evaluate(weighing.model, tmp_path / "mine.csv", weights="")
    mean = rounded(found.value, found.stderr)
    assert scored.text == (
        f"mine.csv: 2 rows, mean log-density {mean} nats, all rows alike: there is no column w"
    )


@pytest.mark.parametrize(
    ("weights", "message"),
    [((1, -1), "row 1 has -1: numbers of at least 0"), ((0, 0), "all of them are zero")],
    ids=["negative", "zeros"],
)
def test_weights_that_are_none_are_refused(weights, message, weighing, workers, tmp_path):
    text = "a,b,c,w\n1,2,3,{}\n4,5,6,{}\n".format(*weights)
    with pytest.raises(DataError, match=f"mine.csv.*{message}"):
        score_file(weighing, file(tmp_path, text), tmp_path, workers)


BAD = {
    "empty": ("", "mine.csv: the file is empty"),
    "header alone": ("a,b,c\n", "the set is empty"),
    "missing column": ("a,b\n1,2\n", "mine.csv (train): no column c, "),
    "text": ("a,b,c\n1,2,3\n1,2,many\n", "'c' is not numeric, row 1 "),
    "NaN": ("a,b,c\n1,2,3\n1,2,nan\n", "row 1, column 'c' is nan"),
    "no header": ("1,2,3\n4,5,6\n", "the file seems to lack its header"),
    "semicolons": ("a;b;c\n1;2;3\n", "columns seem to be separated by ';'"),
    "column there": ("a,b,c,log_prob\n1,2,3,4\n", "a column log_prob already"),
    "too far": ("a,b,c\n1,1e30,1e30\n", "mine.csv: no row has a finite log-density"),
    "out of bounds": ("a,b,c\n1,2,3\n-1,2,3\n", "a is not within its bounds, 0 "),
}


@pytest.mark.filterwarnings("ignore:.*no finite log-density")
@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_a_bad_file_is_refused_in_a_line(text, message, workers, tmp_path):
    exhibit = space(bounds={"a": (0, None)})
    with pytest.raises((DataError, ModelError)) as refused:
        score_file(exhibit, file(tmp_path, text), tmp_path, workers)
    assert message in str(refused.value)
    assert str(tmp_path) not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not [*tmp_path.glob("*scored*")]  # nothing half-written


def test_more_numeric_columns_than_a_model_without_names_takes_are_refused(workers, tmp_path):
    exhibit = Exhibit("plane", make(dtype=torch.float32))
    with pytest.raises(DataError, match="rows of shape \\[3\\], .*\\[2\\]"):
        score_file(exhibit, file(tmp_path, "x,y,more\n1,2,3\n"), tmp_path, workers)


def test_a_table_is_no_file_for_a_model_of_images(workers, tmp_path):
    exhibit = Exhibit("images", make_images())
    with pytest.raises(DataError, match="no column of images"):
        score_file(exhibit, file(tmp_path, "a,b\n1,2\n"), tmp_path, workers)


def test_files_that_are_too_large_are_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr("impflow_zoo.demo.uploads.open_rows", lambda *_: pytest.fail("it was read"))
    path, config = file(tmp_path, "a,b,c\n" + "1,2,3\n" * 1_000_000), space().model.config
    with pytest.raises(DataError, match="1,000,000 rows, fewer than 1,000,000 are taken"):
        read_upload(config, path, tmp_path)
    with path.open("wb") as large:
        large.truncate(100_000_001)
    with pytest.raises(DataError, match="100,000,001 bytes, .* at most 100,000,000"):
        read_upload(config, path, tmp_path)


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"], ids=["LF", "CR", "CRLF"])
def test_rows_are_counted_whatever_ends_them(end, tmp_path, monkeypatch):
    monkeypatch.setattr("impflow_zoo.demo.uploads.ROWS", 3)
    path = file(tmp_path, end.join(["a,b,c", *["1,2,3"] * 3, ""]))
    with pytest.raises(DataError, match="3 rows, fewer than 3 are taken"):
        read_upload(space().model.config, path, tmp_path)


def test_rows_are_not_scored_for_ever(workers, tmp_path, monkeypatch):
    monkeypatch.setattr("impflow_zoo.demo.uploads._SCORING", 0.0)
    with pytest.raises(DataError, match="mine.csv: .* more than 0 seconds to score"):
        score_file(space(), file(tmp_path, "a,b,c\n1,2,3\n"), tmp_path, workers)


def test_long_names_and_cells_are_shown_in_part(workers, tmp_path):
    names = ",".join(f"more{i}" for i in range(100))
    text = f"a,b,c,note,{names}\n1,2,3,{'x' * 10_000}{',' * 100}\n"
    scored = score_file(space(), file(tmp_path, text), tmp_path, workers)
    assert [*scored.head.columns[:4], scored.head.columns[-1]] == [
        "a",
        "b",
        "c",
        "note",
        "log_prob",
    ]
    assert scored.head.shape == (1, 31)
    assert len(scored.head.note[0]) == 80


def test_thousands_of_columns_are_read_in_a_moment(tmp_path):
    names = ["a", "b", "c", *(f"c{i}" for i in range(8000))]
    path = file(tmp_path, f"{','.join(names)}\n{','.join(['2'] * len(names))}\n")
    start = time.process_time()
    _, values, *_ = read_upload(space().model.config, path, tmp_path)
    assert values.tolist() == [[2, 2, 2]]
    with pytest.raises(DataError, match="rows of shape \\[8003\\], .*\\[2\\]"):
        read_upload(make(dtype=torch.float32).config, path, tmp_path)
    assert time.process_time() - start < 3


def test_rows_of_a_hall(workers, tmp_path):
    hall = Hall(DEFAULT, None, None, "cpu", tmp_path, workers)
    assert len(hall.names) > 20
    assert len(hall.open(DEFAULT).held_out) == 946
    assert hall.open("impflow-checkerboard").held_out.name == "toy:checkerboard"
    assert hall.open("impflow-mnist").held_out is None  # nothing is fetched unasked
    assert hall.open(DEFAULT) is hall.open(DEFAULT)


def test_data_that_are_asked_for_fit_the_first_model_or_are_refused(workers, tmp_path):
    rows = power_plant().rows.rows(range(4)).numpy()
    path = tmp_path / "test.csv"
    pandas.DataFrame(rows, columns=power_plant().columns).to_csv(path, index=False)
    hall = Hall(DEFAULT, str(path), None, "cpu", tmp_path, workers)
    assert len(hall.open(DEFAULT).held_out) == 4
    other = hall.open("impflow-kin8nm")
    assert other.held_out is None
    assert "test.csv" in other.note
    with pytest.raises(DataError, match="no column"):
        Hall("impflow-kin8nm", str(path), None, "cpu", tmp_path, workers)


def test_a_row_keeps_its_number():
    rows = Rows("t", torch.arange(4.0)[:, None], 5)
    assert rows.read([1, 2]).index.tolist() == [6, 7]
    part = rows.part(range(2, 4)).read([0])
    assert (part.index.tolist(), part.rows.tolist()) == ([7], [[2.0]])


@pytest.mark.parametrize(
    "ends",
    [
        (-2.13, 3.4, 0.1),
        (999_975.0, 1_000_025.0, 1_000_003.0),
        (0.999e-3, 0.4, 0.2),
        (1.0, 2.0013, 2.0013),
        (1.0007, 2.0, 1.0007),
        (25.36, 100.16, 73.4),
    ],
)
def test_sliders_reach_the_data_in_round_numbers(ends):
    from impflow_zoo.demo.tabs import slider_ends

    low, high, middle, step = slider_ends(*ends)
    assert 0 < step <= (high - low) / 200
    for found, wanted in zip((low, high, middle), ends, strict=True):
        assert abs(found - wanted) <= step
        assert len(f"{found:.10g}") <= len(f"{step:.10g}") + 6  # as a person writes it
    assert low <= ends[0] < ends[1] <= high
    assert low <= middle <= high


def test_sliders_stay_within_bounds():
    from impflow_zoo.demo.tabs import slider_ends

    assert slider_ends(25.36, 100.16, 73.4)[:2] == (25.3, 100.2)
    assert slider_ends(25.36, 100.16, 73.4, within=(25.36, 100.16))[:2] == (25.4, 100.1)
    open_ends = math.nextafter(0, 1), math.nextafter(1, 0)
    low, high, _, step = slider_ends(1e-9, 1 - 1e-9, 0.5, within=open_ends)
    assert (low, high) == (step, 1 - step)


def test_sliders_reach_whole_numbers():
    from impflow_zoo.demo.tabs import slider_ends

    assert slider_ends(1.0, 2.0, 1.5)[:3] == (1.0, 2.0, 1.5)


@pytest.mark.parametrize("months", [[1.0, 1.0, 1.0], [1.0, 2.0, 2.0]])
def test_a_slider_of_a_context_fits_whatever_rows_are_at_hand(months, monkeypatch):
    """They may have one value of it, or none near the mean of the training rows."""
    from impflow_zoo.demo.page import _contexts

    exhibit = Exhibit("given", make(features=1, context_features=1, dtype=torch.float32))
    exhibit.model.parts[0].transform.set(torch.tensor([6.5]), torch.tensor([3.0]))
    rows = torch.tensor(months)[:, None].expand(-1, 2)
    monkeypatch.setattr(Exhibit, "first_rows", lambda *_: rows)
    ((low, high, value, step),) = _contexts(exhibit)
    assert low <= value <= high
    assert step > 0


def test_a_slider_of_a_context_reaches_the_extremes_of_the_rows(monkeypatch):
    from impflow_zoo.demo.page import _contexts

    exhibit = Exhibit("given", make(features=1, context_features=1, dtype=torch.float32))
    far = torch.tensor([0.0] * 3000 + [40.26, 100.16], dtype=torch.float64)[:, None].expand(-1, 2)
    exhibit = Exhibit("given", exhibit.model, Rows("rows", far))
    ((low, high, _, step),) = _contexts(exhibit)
    assert (low, high, step) == (0, 100.2, 0.2)


def test_without_rows_a_slider_of_a_context_keeps_to_values_that_a_column_is_sure_to_have():
    """Of a column of sizes, which has none below 0, the mean is about the standard deviation."""
    from impflow_zoo.demo.page import _contexts

    sizes = torch.distributions.Exponential(1 / 70.0).icdf((torch.arange(1000) + 0.5) / 1000)
    exhibit = Exhibit("given", make(features=1, context_features=1, dtype=torch.float32))
    exhibit.model.parts[0].transform.set(sizes.mean()[None], sizes.std()[None])
    ((low, high, middle, _),) = _contexts(exhibit)
    assert 0 <= low < middle < high <= float(sizes.max())
