"""Sets of images on the Hub that unfold without end, or name files of others."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator

import numpy
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet
from support.client_process import Client, client, fails
from support.hostile import little_memory, said_size
from support.loopback_hub import Hub

from impflow_zoo.data import ImageFormat, ImageSource, ImageStream

KINDS = {"fetched": ImageSource, "streamed": ImageStream}


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


@pytest.fixture(scope="module")
def online(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with client(hub.environment(tmp_path_factory.mktemp("home"))) as running:
        yield running


def first_row(kind: str, dataset: str) -> tuple[int, ...]:
    """The shape of the first row of a set on the Hub; runs in a process that talks to it."""
    form = ImageFormat(1, (8, 8))
    with little_memory():
        return tuple(next(iter(KINDS[kind].open(dataset, "train", form).batches(1))).rows.shape)


def table(cells: pyarrow.Array) -> dict[str, bytes]:
    """A set of a table with a column of images."""
    file = io.BytesIO()
    parquet.write_table(pyarrow.table({"image": cells}), file, store_schema=False)
    page = b"---\ndataset_info:\n  features:\n  - name: image\n    dtype: image\n---\n"
    return {"train.parquet": file.getvalue(), "README.md": page}


def one_image(content: bytes | None, path: str | None = None) -> dict[str, bytes]:
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    return table(pyarrow.array([{"bytes": content, "path": path}], kind))


def one_image_many_times() -> dict[str, bytes]:
    """28,000 rows with one image of 100,000 bytes, which the file keeps once."""
    indices = pyarrow.array(numpy.zeros(28_000, numpy.int32))
    image = pyarrow.DictionaryArray.from_arrays(indices, pyarrow.array([b"x" * 100_000]))
    path = pyarrow.nulls(28_000, pyarrow.string())
    return table(pyarrow.StructArray.from_arrays([image, path], ["bytes", "path"]))


def png() -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "PNG")
    return file.getvalue()


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", png())
    return file.getvalue()


REFUSED = {
    "13,000 x 13,000": (
        one_image(said_size(png(), 13_000)),
        r"more than 89,478,485 pixels (PIL.Image.MAX_IMAGE_PIXELS)",
    ),
    "one image many times": (
        one_image_many_times(),
        "at most 2,000,000,000 are read (impflow_zoo.data.limits.TABLE_BYTES)",
    ),
    "an archive": ({"data/train.zip": zipped()}, "cannot read files of type .zip, only"),
    "a file of another set": (
        one_image(None, "hf://datasets/someone/private@main/a.png"),
        "elsewhere, at hf://datasets/someone/private@main/a.png: ",
    ),
    "a local file": (
        one_image(None, "/etc/hostname"),
        "elsewhere, at /etc/hostname: ",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, kind, hub, online):
    files, message = REFUSED[name]
    repo = f"someone/{name.replace(' ', '-').replace(',', '')}"
    if not any(known == repo for _, known in hub.repositories):
        hub.add(repo, files, kind="dataset")
    fails(online(first_row, kind, repo), "DataError", repo, message)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "files",
    [one_image(png()), {"train/a.png": png()}],
    ids=["in a table", "in files"],
)
def test_taken(files, kind, hub, online):
    repo = f"someone/{len(files)}-files"
    hub.add(repo, files, kind="dataset")
    assert online(first_row, kind, repo) == (1, 1, 8, 8)
