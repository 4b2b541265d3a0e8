"""Data files that are made to hang, to unpack without end, or to be opened by another program."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import signal
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import numpy
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet
from support.hostile import little_memory, said_size

from impflow_zoo.data import (
    DataError,
    ImageFormat,
    ImageSource,
    ImageStream,
    LeftOutWarning,
    limits,
    open_source,
    open_table,
)
from impflow_zoo.data.loading import find_images

pytestmark = pytest.mark.skipif(os.name != "posix", reason="devices and pipes of POSIX")
FORM, GREY = ImageFormat(3, (8, 8), resize=True), ImageFormat(1, (8, 8))
TABLE = b"a,b\n" + b"1,2\n" * 100_000
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def _in_time() -> Iterator[None]:
    """Whatever waits for a pipe ends in an error."""

    def end(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def written(name: str, content: bytes) -> Callable[[Path], Path]:
    """A file, or a folder with a file if the name has a slash."""

    def write(root: Path) -> Path:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return root / name.split("/")[0]

    return write


def pipe(name: str) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        path = root / name
        path.parent.mkdir(exist_ok=True)
        os.mkfifo(path)
        return root / name.split("/")[0]

    return make


def device(name: str) -> Callable[[Path], Path]:
    def link(root: Path) -> Path:
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.symlink_to("/dev/zero")
        return root / name.split("/")[0]

    return link


def zipped(name: str, content: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return made.getvalue()


def picture(side: int = 8, kind: str = "PNG") -> bytes:
    """A grey image of 8x8 pixels, which says that it is larger if it is a PNG file."""
    made = io.BytesIO()
    Image.new("L", (8, 8)).save(made, kind)
    return said_size(made.getvalue(), side) if kind == "PNG" else made.getvalue()


def constant_rows(root: Path) -> Path:
    """300 million equal numbers in a hundred kilobytes, which is one file under many names."""
    some = pyarrow.table({"a": numpy.full(10**6, 0.5)})
    (root / "d").mkdir()
    with parquet.ParquetWriter(root / "d" / "train-0.parquet", some.schema) as file:
        for _ in range(10):
            file.write_table(some)
    for i in range(1, 30):
        os.link(root / "d" / "train-0.parquet", root / "d" / f"train-{i}.parquet")
    return root / "d"


def long_texts(path: Path, page: str) -> None:
    """28,000 rows with one text of 100,000 characters, which the file keeps once."""
    one = pyarrow.array(numpy.zeros(28_000, numpy.int32))
    text = pyarrow.DictionaryArray.from_arrays(one, pyarrow.array(["x" * 100_000]))
    image = pyarrow.DictionaryArray.from_arrays(one, pyarrow.array([b"x" * 100_000]))
    table = pyarrow.table({"a": numpy.arange(28_000.0), "group": text, "text": text})
    struct = pyarrow.StructArray.from_arrays([image], ["bytes"])
    table = table.append_column("image", struct)
    parquet.write_table(table, path, store_schema=False, data_page_version=page)


NO_TEXT = "save it as UTF-8"
NO_TYPE = "cannot read files of type"
TABLES = {
    "a device": (lambda _: Path("/dev/zero"), "neither a file nor a folder"),
    "a link to a device": (device("t.csv"), "neither a file nor a folder"),
    "a pipe": (pipe("t.csv"), "neither a file nor a folder"),
    "a pipe in a folder": (pipe("d/train.csv"), "cannot load dataset"),
    "a device in a folder": (device("d/train.json"), "cannot load dataset"),
    "gzip called CSV": (written("t.csv", gzip.compress(TABLE)), NO_TEXT),
    "gzip called CSV in a folder": (written("d/train.csv", gzip.compress(TABLE)), NO_TEXT),
    "bzip2 called JSON": (written("t.json", bz2.compress(TABLE)), NO_TEXT),
    "zip called CSV": (written("t.csv", zipped("t.csv", TABLE)), NO_TEXT),
    "zip called JSON in a folder": (written("d/train.jsonl", zipped("t.jsonl", TABLE)), NO_TEXT),
    "gzip called parquet": (written("t.parquet", gzip.compress(TABLE)), "magic bytes not found"),
    "gzip": (written("t.csv.gz", gzip.compress(TABLE)), NO_TYPE),
    "gzip in a folder": (written("d/train.csv.gz", gzip.compress(TABLE)), NO_TYPE),
    "zip in a folder": (written("d/train.zip", zipped("t.csv", TABLE)), NO_TYPE),
    "JSON in UTF-16": (written("t.json", '{"a": 1}\n'.encode("utf-16")), NO_TEXT),
    "constant rows": (constant_rows, "300,000,000 rows of 1 .* 2,000,000,000 bytes"),
    "a file of JSON lines that is one list": (written("t.jsonl", b"[1, 2]"), "row 0 is no object"),
    "half a list": (written("t.json", b'[{"a": 1} {"a": 2}]'), "row 1 is no JSON: ',' "),
    "a name twice": (written("t.json", b'{"a": 1, "a": 2}'), "row 0 .*: a name stands twice"),
    "a column too late": (written("t.json", b'{"a": 1}\n{"b": 2}'), "row 1 has a column 'b', the"),
    "half a character": (written("t.json", b'{"\\ud800": 1}'), "name of a column is no text"),
    "nothing in a list": (written("t.json", b" [ ]"), "the set is empty"),
    "digits": (
        written("t.json", b'{"a": ' + b"9" * 5000 + b"}"),
        "row 0 .* too many digits",
    ),
}
DEEP = {
    "lists": b"[" * 5000 + b"]" * 5000,
    "lists that do not end": b"[" * 5000,
    "objects": b'{"b": ' * 5000 + b"1" + b"}" * 5000,
    "lists of lists": b"[[]," * 5000 + b"1" + b"]" * 5000,
}
IMAGES = {
    "13,000 x 13,000 pixels": (picture(13_000), r"89,478,485 pixels \(PIL.Image.MAX_IMAGE_PIXELS"),
    "30,000 x 30,000 pixels": (picture(30_000), r"89,478,485 pixels \(PIL.Image.MAX_IMAGE_PIXELS"),
    "PostScript": (POSTSCRIPT, "cannot identify image file"),
    "another format": (picture(8, "PCX"), "cannot identify image file"),
    "gzip": (gzip.compress(picture(8)), "cannot identify image file"),
    "nothing": (b"", "cannot decode the image of row 0"),
}


@pytest.mark.parametrize(("make", "message"), TABLES.values(), ids=TABLES)
def test_tables(make, message, tmp_path):
    path = make(tmp_path)
    with pytest.raises(DataError, match=message) as refused:
        open_table(path)
    assert str(refused.value).isprintable()
    with pytest.raises(DataError):
        open_source(path, image=FORM)


@pytest.mark.parametrize("name", ["t.json", "t.jsonl"])
@pytest.mark.parametrize("value", DEEP.values(), ids=DEEP)
def test_brackets_within_brackets_are_refused_at_once(value, name, tmp_path):
    (tmp_path / name).write_bytes(b'{"a": 1}\n{"a": ' + value + b"}\n")
    before = time.process_time()
    with pytest.raises(DataError, match="row 1 (is no JSON|has brackets)"):
        open_table(tmp_path / name)
    assert time.process_time() - before < 1


@pytest.mark.parametrize(("content", "message"), IMAGES.values(), ids=IMAGES)
def test_images(content, message, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "subprocess", None)  # Pillow would call Ghostscript
    folder = written("d/train/a.png", content)(tmp_path)
    with pytest.raises(DataError, match=message) as refused:
        open_source(folder, image=FORM).read([0])
    assert "\n" not in str(refused.value)
    with pytest.raises(DataError, match=message):
        next(ImageStream.open(folder, None, FORM).batches(1))


@pytest.mark.parametrize("kind", [ImageSource, ImageStream])
def test_one_image_is_no_set(kind, tmp_path):
    with pytest.raises(DataError, match="a.png is one image"):
        kind.open(written("a.png", picture())(tmp_path), None, GREY)


@pytest.mark.parametrize("name", ["a.eps", "train.zip", "a.png.gz"])
def test_a_folder_of_something_else_than_images(name, tmp_path):
    with pytest.raises(DataError, match=f"{NO_TYPE}|no column of images|any data"):
        open_source(written(f"d/{name}", zipped("a.png", picture(8)))(tmp_path), image=FORM)


def cells_of_paths(file: Path, *paths: str) -> None:
    """A parquet file with images in other files."""
    cells = {"image": [{"bytes": None, "path": path} for path in paths]}
    features = datasets.Features({"image": datasets.Image()})
    made = datasets.Dataset.from_dict(cells, features=features)
    parquet.write_table(made.data.table, file)


def test_a_pipe_that_a_cell_names(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    cells_of_paths(tmp_path / "t.parquet", str(tmp_path / "pipe.png"))
    with pytest.raises(DataError, match="there is no file .*pipe.png"):
        open_source(tmp_path / "t.parquet", image=FORM).read([0])


@pytest.mark.parametrize("path", ["{root}/secret.png", "../secret.png", "../set2/secret.png"])
@pytest.mark.parametrize("kind", [ImageSource, ImageStream])
def test_a_cell_names_no_files_of_others(kind, path, tmp_path):
    for name in ("secret.png", "set2/secret.png", "set/own/a.png"):
        written(name, picture())(tmp_path)
    for name, fits in ((path.format(root=tmp_path), False), ("own/a.png", True)):
        cells_of_paths(tmp_path / "set" / "t.parquet", name)
        rows = kind.open(tmp_path / "set" / "t.parquet", None, GREY, skip_corrupt=True).batches(1)
        if fits:
            assert next(iter(rows)).rows.shape == (1, 1, 8, 8)
            continue
        with pytest.raises(DataError, match="row 0: .*elsewhere, at .*: only files"):
            next(iter(rows))


@pytest.mark.parametrize("page", ["1.0", "2.0"])
def test_texts_that_a_file_keeps_once_unfold_nowhere(page, tmp_path):
    long_texts(tmp_path / "t.parquet", page)
    assert (tmp_path / "t.parquet").stat().st_size < 1_000_000
    with little_memory(), pytest.warns(LeftOutWarning, match="'text' is not numeric, row 0 holds"):
        source = open_table(tmp_path / "t.parquet")
    assert source.columns == ("a",)
    assert source.rows([27_999]).item() == 27_999
    assert source.groups is not None
    assert source.groups.unique().tolist() == [0]
    with little_memory(), pytest.raises(DataError, match="bytes unfold to 8,.* at most 2,000,000,"):
        open_source(tmp_path / "t.parquet", image=FORM)
    assert not list((tmp_path / "cache").glob("**/*.arrow"))


@pytest.mark.parametrize("value", [1.0, "1"], ids=["numbers", "texts of numbers"])
def test_many_columns_take_a_second(value, tmp_path):
    table = pyarrow.table({f"c{i}": [value] for i in range(4000)} | {"a": [0.5]})
    parquet.write_table(table, tmp_path / "t.parquet")
    before = time.process_time()
    assert open_table(tmp_path / "t.parquet", columns=["a"]).rows([0]).item() == 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeftOutWarning)
        assert len(open_table(tmp_path / "t.parquet").columns) in (1, 4001)
    assert time.process_time() - before < 2


def test_lists_beside_images_are_not_read(tmp_path):
    cells = {"image": [{"bytes": picture(), "path": None}], "texts": [["a", "b"]]}
    features = datasets.Features(
        {"image": datasets.Image(), "texts": datasets.List(datasets.Value("string"))}
    )
    made = datasets.Dataset.from_dict(cells, features=features)
    parquet.write_table(made.data.table, tmp_path / "t.parquet")
    assert find_images(tmp_path / "t.parquet").data.column_names == ["image"]


@pytest.mark.parametrize(
    "outside",
    ["../secret.csv", "../d2/secret.csv", "{root}/secret.csv", "https://elsewhere.org/a.csv"],
)
def test_the_page_of_a_set_names_no_files_of_others(outside, tmp_path):
    folder = written("d/sub/train.csv", b"a\n1\n")(tmp_path)
    for secret in ("secret.csv", "d2/secret.csv"):
        written(secret, b"a\n7\n")(tmp_path)
    place = outside.replace("{root}", str(tmp_path))
    page = f"---\nconfigs:\n- config_name: default\n  data_files: {place!r}\n---\n"
    (folder / "README.md").write_text(page)
    for options in ({}, {"image": FORM}):
        with pytest.raises(DataError, match="d: its page .* outside of the set, .*csv"):
            open_source(folder, **options)
    (folder / "README.md").write_text(page.replace(place, "sub/*.csv"))
    assert open_source(folder).rows([0]).item() == 1


def test_the_page_of_a_set_is_read_at_once(tmp_path):
    folder = written("d/train.csv", b"a\n1\n")(tmp_path)
    laughs = ["a0: &a0 [x]"]  # ten lines that stand for ten billion values
    laughs += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 11)]
    for settings in ("\n".join([*laughs, "configs: *a10"]), "configs: " + "[" * 100_000):
        (folder / "README.md").write_text(f"---\n{settings}\n---\nText.\n")
        with pytest.raises(DataError, match="the settings in README.md have aliases"):
            open_table(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\nText --- with\nhttps://a.example\n")
    assert open_table(folder).rows([0]).item() == 1


def test_limits_may_be_raised(tmp_path, monkeypatch):
    parquet.write_table(pyarrow.table({"a": [0.5] * 100_000}), tmp_path / "t.parquet")
    monkeypatch.setattr(limits, "TABLE_BYTES", 700_000)
    with pytest.raises(DataError, match="100,000 rows of 1 .* 700,000 bytes"):
        open_table(tmp_path / "t.parquet")
    monkeypatch.setattr(limits, "TABLE_BYTES", 800_000)
    assert len(open_table(tmp_path / "t.parquet")) == 100_000
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 63)
    folder = written("d/train/a.png", picture(8))(tmp_path)
    with pytest.raises(DataError, match="more than 63 pixels"):
        open_source(folder, image=ImageFormat(1, (8, 8))).read([0])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64)
    assert open_source(folder, image=ImageFormat(1, (8, 8))).rows([0]).shape == (1, 1, 8, 8)


def test_data_that_pack_badly_meet_the_same_limit(tmp_path, monkeypatch):
    a, b = numpy.random.default_rng(0).standard_normal((2, 1000))
    parquet.write_table(pyarrow.table({"a": a, "b": b}), tmp_path / "t.parquet")
    monkeypatch.setattr(limits, "TABLE_BYTES", 10_000)
    with pytest.raises(DataError, match="1,000 rows of 2 .* 10,000 bytes"):
        open_table(tmp_path / "t.parquet")
    assert len(open_table(tmp_path / "t.parquet", columns=["b"])) == 1000
