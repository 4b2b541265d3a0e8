"""Image sets that are read in order: the same numbers, and nothing kept."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from support.client_process import client, fails
from support.corrupt_images import BAD, GOOD, left_out, small
from support.image_sets import encoded, image_set, pictures
from support.loopback_hub import Hub

from impflow_zoo import evaluate
from impflow_zoo.data import (
    DataError,
    ImageFormat,
    ImageSource,
    ImageStream,
)
from impflow_zoo.evaluation.processes import Processes
from impflow_zoo.evaluation.scoring import score

FORM = ImageFormat(3, (8, 8))


def timeless(result: Any) -> Any:
    return replace(result, seconds=0.0)


def folder_of_files(folder: Path) -> str:
    """A folder of PNG files, which `datasets` opens by their paths."""
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        for i, image in enumerate(GOOD):
            Image.fromarray(image).save(folder / split / f"{i}.png")
    return str(folder)


@pytest.mark.parametrize("options", [{}, {"limit": 4}, {"batch_size": 3}], ids=str)
@pytest.mark.parametrize("make_set", [folder_of_files, lambda f: image_set(f, GOOD)])
def test_a_streamed_set_has_the_same_number(make_set, options, tmp_path):
    model, dataset = small(), make_set(tmp_path / "set")
    one, other = (
        evaluate(model, dataset, "test", streaming=streaming, **options)
        for streaming in (True, False)
    )
    assert timeless(one) == timeless(other)
    assert one.n == options.get("limit", 7)


def test_corrupt_images_are_left_out_of_a_stream_too(tmp_path):
    dataset = image_set(tmp_path, [*(BAD.get(i, image) for i, image in enumerate(GOOD))])
    model = small()
    with left_out(rows=2):
        one = evaluate(model, dataset, streaming=True, skip_corrupt=True)
    with left_out(rows=2):
        other = evaluate(model, dataset, skip_corrupt=True)
    assert timeless(one) == timeless(other)
    assert (one.n, one.skipped) == (5, 2)
    with pytest.raises(DataError, match="cannot decode the image of row 2"):
        evaluate(model, dataset, streaming=True)


# ------------------------------------------------------------------ what is asked for, and kept


class Numbered:
    """A set of as many images as anybody asks for, each in one colour; counts what it gave."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.given, self.fail_at = 0, fail_at

    def stream(self, **options: Any) -> ImageStream:
        features = datasets.Features({"picture": datasets.Image()})
        data = datasets.IterableDataset.from_generator(Rows(self), features=features)
        return ImageStream("numbered", data, FORM, **options)

    def rows(self) -> Iterator[dict[str, Any]]:
        self.given = 0
        while True:
            if self.given == self.fail_at:
                raise ConnectionError("connection reset by peer")
            self.given += 1
            yield {"picture": encoded(np.full((8, 8, 3), self.given % 256, dtype=np.uint8))}


class Rows:
    """What `datasets` calls; it takes a fingerprint, which the count is no part of."""

    def __init__(self, numbered: Numbered) -> None:
        self.numbered = numbered

    def __call__(self) -> Iterator[dict[str, Any]]:
        return self.numbered.rows()

    def __reduce__(self) -> tuple[Any, ...]:
        return Rows, ()


@pytest.mark.parametrize("limit", [1, 4, 5])
def test_no_row_beyond_the_limit_is_asked_for(limit):
    numbered = Numbered()
    found = list(numbered.stream().batches(2, limit))
    assert numbered.given == limit
    assert torch.cat([batch.index for batch in found]).tolist() == list(range(limit))
    assert torch.cat([batch.rows for batch in found])[:, 0, 0, 0].tolist() == [*range(1, limit + 1)]


def test_rows_are_asked_for_when_they_are_needed():
    numbered = Numbered()
    one_pass = numbered.stream().batches(3)
    assert numbered.given == 0
    for i in range(1, 5):
        next(one_pass)
        assert numbered.given == 3 * i
    assert next(numbered.stream().batches(3)).index.tolist() == [0, 1, 2]  # each pass is its own


def test_nothing_of_a_batch_outlives_it():
    seen: list[weakref.ref[torch.Tensor]] = []
    for batch in Numbered().stream().batches(4, 400):
        seen.append(weakref.ref(batch.rows))
        assert len(batch.rows) == 4
        del batch
        assert seen[-1]() is None
    assert len(seen) == 100


def test_memory_of_an_evaluation_does_not_grow_with_the_set(monkeypatch):
    """Tensors of bytes that are alive while a model scores: those of a batch, wherever it is."""
    model, alive = small(), []
    log_prob = model.log_prob_with_error

    def watched(x: torch.Tensor, *context: Any, **options: Any) -> Any:
        last = len(alive) % 10 == 9
        alive.append(sum(t.numel() for t in gc.get_objects() if is_bytes(t)) if last else 0)
        return log_prob(x, *context, **options)

    monkeypatch.setattr(model, "log_prob_with_error", watched)
    score(model, Numbered().stream(), seed=0, batch_size=3, limit=90)
    assert len(alive) == 30
    assert max(alive) < 30 * 3 * 8 * 8  # a third of all, whatever else there is


def is_bytes(t: object) -> bool:
    return type(t) is torch.Tensor and t.dtype == torch.uint8


# -------------------------------------------------------------------------------- refusals


def test_a_connection_that_breaks_is_no_corrupt_image():
    stream = Numbered(fail_at=3).stream(skip_corrupt=True)
    one_pass = stream.batches(2)
    assert next(one_pass).index.tolist() == [0, 1]
    with pytest.raises(DataError, match="cannot fetch row 3: connection reset"):
        next(one_pass)


def test_a_file_out_of_reach_is_no_corrupt_image():
    data = datasets.IterableDataset.from_generator(
        lambda: iter([{"picture": {"path": "memory://none.png", "bytes": None}}]),
        features=datasets.Features({"picture": datasets.Image()}),
    )
    stream = ImageStream("gone", data, FORM, skip_corrupt=True)
    with pytest.raises(DataError, match="cannot fetch row 0"):
        next(stream.batches(2))


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/x.png", "zip://x.png::s3://a/b.zip"])
def test_nothing_is_fetched_from_an_address_in_a_row(address):
    data = datasets.Dataset.from_dict(
        {"image": [{"bytes": None, "path": address}]},
        features=datasets.Features({"image": datasets.Image()}),
    )
    stream = ImageStream("set", data.to_iterable_dataset(), FORM)
    with pytest.raises(DataError, match="elsewhere, at .*: only files of the set"):
        next(stream.batches(1))


def test_a_stream_validates(tmp_path):
    """A pass in order is all that a validation is."""
    model, dataset = small(), image_set(tmp_path / "set", GOOD)
    sources = [kind.open(dataset, None, FORM) for kind in (ImageStream, ImageSource)]
    found = [score(model, source, seed=1, limit=5).log_prob for source in sources]
    assert torch.equal(*found)


def test_several_processes_do_not_share_a_stream():
    with pytest.raises(DataError, match="numbered is streamed: only one process"):
        score(small(), Numbered().stream(), seed=0, processes=Processes(1, 2))


REFUSED = {
    "tables": ("impflow-checkerboard", "toy:moons", "toy:moons: streaming does not apply"),
    "no images": (None, "{}/test.csv", "no column of images"),
    "empty": (None, "{}/test.parquet", "the set is empty"),
    "nowhere": (None, "./none.parquet", "no such file or folder"),
}


@pytest.mark.parametrize(("model", "dataset", "message"), REFUSED.values(), ids=REFUSED)
def test_mistakes_are_named(model, dataset, message, tmp_path):
    (tmp_path / "test.csv").write_text("a,b\n1,2\n")
    image_set(tmp_path, [])
    with pytest.raises(DataError, match=message) as caught:
        evaluate(model or small(), dataset.format(tmp_path), streaming=True)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------ from the Hub


def scored(folder: str, dataset: str, streaming: bool, **options: Any) -> tuple[int, float, float]:
    """Runs in a process that talks to the loopback Hub."""
    result = evaluate(folder, dataset, "test", streaming=streaming, **options)
    return result.n, result.value, result.round_trip


def test_a_set_of_the_hub_is_fetched_as_far_as_it_is_needed(tmp_path):
    small().save_pretrained(tmp_path / "model")
    files = {}
    for i in range(2):
        content = Path(image_set(tmp_path / str(i), pictures(5))).read_bytes()
        files[f"data/test-0000{i}-of-00002.parquet"] = content
    with Hub() as hub, client(hub.environment(tmp_path / "home")) as online:
        hub.add("someone/pictures", files, kind="dataset")
        arguments = (str(tmp_path / "model"), "someone/pictures")
        few = online(scored, *arguments, streaming=True, limit=4)
        assert fetched(hub) == {"test-00000-of-00002.parquet"}
        streamed = online(scored, *arguments, streaming=True)
        assert online(scored, *arguments, streaming=False, limit=4) == few
        assert online(scored, *arguments, streaming=False) == streamed
        assert (few[0], streamed[0]) == (4, 10)
        files["data/test-00001-of-00002.parquet"] = content[:-50]
        hub.add("someone/broken", files, kind="dataset")
        broken = online(scored, arguments[0], "someone/broken", streaming=True)
        fails(broken, "DataError", "someone/broken (test): cannot fetch row 5")


def fetched(hub: Hub) -> set[str]:
    """The files of which contents were asked for."""
    return {p.rsplit("/", 1)[1] for m, p in hub.requests if m == "GET" and p.endswith(".parquet")}
