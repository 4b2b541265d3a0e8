"""Files of users: how much room they take together, and when they go."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from pathlib import Path
from typing import Any

import pytest

from impflow_zoo.demo import quota
from impflow_zoo.demo.quota import Quota

UPLOAD = "/gradio_api/upload"


def ask(folder: Path, path: str, method: str = "POST", size: int | None = 10) -> int | None:
    """The status that the quota answers a request with; None if it passes the request on."""
    sent: list[dict[str, Any]] = []

    async def app(*_: Any) -> None:
        pass

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [] if size is None else [(b"content-length", str(size).encode())]
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    asyncio.run(Quota(app, folder, largest=100)(scope, None, send))
    return sent[0]["status"] if sent else None


def test_files_are_taken_while_there_is_room(tmp_path, monkeypatch):
    monkeypatch.setattr(quota, "BYTES", 1000)
    monkeypatch.setattr(quota, "FILES", 3)
    assert ask(tmp_path, UPLOAD) is None
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.csv").write_bytes(bytes(980))
    assert ask(tmp_path, UPLOAD, size=20) is None
    assert ask(tmp_path, UPLOAD, size=21) == 503
    assert ask(tmp_path, "/", "GET", size=None) is None
    (tmp_path / "a" / "one.csv").write_bytes(b"")
    for name in ("two", "three"):
        (tmp_path / name).touch()
    assert ask(tmp_path, UPLOAD) == 503


def test_empty_files_that_are_left_are_removed_after_a_while(tmp_path, monkeypatch):
    """gradio makes one for each file that is scored, and never looks at it again."""
    monkeypatch.setattr(quota, "FILES", 1)
    for name, age in (("new", 0), ("old", 3600)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    assert ask(tmp_path, UPLOAD) == 503
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_one_user_leaves_room_for_others(tmp_path, monkeypatch):
    monkeypatch.setattr(quota, "BYTES", 1000)
    statuses: list[int] = []
    number = itertools.count()

    async def stored(scope: Any, *_: Any) -> None:
        (tmp_path / str(next(number))).write_bytes(bytes(90))

    async def send(message: Any) -> None:
        statuses.extend([message["status"]] if "status" in message else [])

    async def uploads() -> int:
        app = Quota(stored, tmp_path, largest=100)
        taken = 0
        for i in range(8):
            for host in ("10.0.0.1", f"2001:db8::{i}", "10.0.0.2", "10.0.0.2")[: 2 if i < 7 else 4]:
                headers = [(b"content-length", b"90")]
                scope = {"type": "http", "method": "POST", "path": UPLOAD, "headers": headers}
                before = len(statuses)
                await app({**scope, "client": (host, 1)}, None, send)
                taken += host == "10.0.0.2" and len(statuses) == before
        return taken

    assert asyncio.run(uploads()) == 1
    assert set(statuses) == {503}
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 650


@pytest.mark.parametrize("slowest", range(3))
def test_what_is_on_its_way_counts(tmp_path, monkeypatch, slowest):
    """Whichever of three uploads is looked at last: what is refused takes no room."""
    monkeypatch.setattr(quota, "BYTES", 100)
    calls, taken = itertools.count(), quota._taken

    def looked(folder: Path) -> tuple[int, int]:
        time.sleep(0.1 * (next(calls) == slowest))
        return taken(folder)

    monkeypatch.setattr(quota, "_taken", looked)
    statuses: list[int] = []
    users = itertools.count()

    async def upload(app: Quota, size: int) -> None:
        async def send(message: Any) -> None:
            statuses.extend([message["status"]] if "status" in message else [])

        headers = [(b"content-length", str(size).encode())]
        scope = {"type": "http", "method": "POST", "path": UPLOAD, "headers": headers}
        await app({**scope, "client": (f"10.0.0.{next(users)}", 1)}, None, send)

    async def slow(*_: Any) -> None:
        await asyncio.sleep(0.5)

    async def three() -> None:
        app = Quota(slow, tmp_path, largest=100)
        await asyncio.gather(*(upload(app, size) for size in (60, 30, 60)))
        await upload(app, 60)

    asyncio.run(three())
    assert statuses == [503]


@pytest.mark.parametrize("size", [None, 2_000_000])
def test_what_does_not_tell_its_size_or_is_too_large_is_refused(tmp_path, size):
    assert ask(tmp_path, UPLOAD, size=size) == 413


def test_a_file_that_was_scored_goes_once_it_was_fetched(tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    own, other, outside = folder / "a-scored.csv", folder / "a.csv", tmp_path / "b-scored.csv"
    for file in (own, other, outside):
        file.touch()
        ask(folder, f"/gradio_api/file={file}", "HEAD", None)
        assert file.exists()
        ask(folder, f"/gradio_api/file={file}", "GET", None)
    assert [own.exists(), other.exists(), outside.exists()] == [False, True, True]


@pytest.mark.parametrize("name", ["\0", "a" * 400], ids=["a zero", "too long"])
def test_a_path_that_no_file_can_have_is_no_error(name, tmp_path):
    assert ask(tmp_path, f"/gradio_api/file={tmp_path}/{name}-scored.csv", "GET", None) is None
