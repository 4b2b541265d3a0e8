"""Files of a folder that no split has are named: a photo called test.png leaves out the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy
import pytest
from PIL import Image

from impflow_zoo.data import ImageFormat, ImageSource, LeftOutWarning, open_table

FORM = ImageFormat(channels=3, size=(2, 2))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `datasets` keeps of made-up files goes with them."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def made(folder: Path, names: Sequence[str]) -> Path:
    """A folder with tables and images of these names."""
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".csv":
            file.write_text("a,b\n1,2\n3,5\n")
        elif file.suffix == ".png":
            Image.fromarray(numpy.zeros((2, 2, 3), numpy.uint8)).save(file)
        else:
            file.write_bytes(b"of another program")
    return folder


@pytest.mark.parametrize(
    ("names", "unread"),
    [
        (["jan.csv", "feb.csv", "stress-test.csv"], "2 files are not read: feb.csv, jan.csv"),
        (["train.csv", "test.csv", "sample.csv"], "1 file is not read: sample.csv"),
        (["own.csv", "run/data/train.csv"], "1 file is not read: own.csv"),
        (["a.csv", "b.csv", "c.parquet"], "1 file is not read: c.parquet"),
    ],
)
def test_tables_that_are_not_read_are_named(tmp_path: Path, names: list[str], unread: str) -> None:
    folder = made(tmp_path / "set", names)
    split = "train" if "train.csv" in names else None
    with pytest.warns(LeftOutWarning) as seen:
        open_table(folder, split)
    (warning,) = seen
    assert f"{folder}: {unread} (splits: t" in str(warning.message)


@pytest.mark.parametrize(
    ("names", "unread"),
    [
        (["0.png", "eye-test.png"], "1 file is not read: 0.png"),
        (["bad/0.png", "good/1.png", "test/2.png"], "2 files are not read: bad/0.png, good/1.png"),
        (["0.png", "1.heic"], "1 file is not read: 1.heic"),
    ],
)
def test_images_that_are_not_read_are_named(tmp_path: Path, names: list[str], unread: str) -> None:
    folder = made(tmp_path / "set", names)
    with pytest.warns(LeftOutWarning, match=f": {unread} "):
        assert len(ImageSource.open(str(folder), None, FORM)) == 1


def test_what_is_no_data_is_not_named(tmp_path: Path) -> None:
    hidden = [".DS_Store", "._0.png", ".cache/1.png", "__x/2.png"]
    names = ["0.png", "9.png", "notes.txt", "labels.csv", *hidden]
    assert len(ImageSource.open(str(made(tmp_path / "images", names)), None, FORM)) == 2
    names = ["train.csv", "test.csv", "photo.png", "config.json", "README.md"]
    assert len(open_table(made(tmp_path / "tables", names), "test")) == 2
