"""Strangers' files are read beside each other, within limits on time and memory."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Iterator

import pytest
from support import readers

from impflow_zoo.data import DataError
from impflow_zoo.demo.workers import Workers

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")


@pytest.fixture
def workers() -> Iterator[Workers]:
    with_little = Workers(seconds=20, memory=2**28)
    yield with_little
    with_little.close()


def test_a_function_is_called_in_a_process_of_its_own(workers, tmp_path):
    assert workers.call(readers.add, 1, 2, folder=tmp_path) == 3
    assert workers.call(tempfile.gettempdir, folder=tmp_path) == str(tmp_path)


BAD = {
    "refused": (readers.refuse, (), DataError, "no good"),
    "unforeseen": (readers.fail, (), RuntimeError, "Traceback"),
    "a crash": (readers.die, (), DataError, "within the limits"),
    "out of memory": (readers.bloat, ("python",), DataError, "more than 0.2 GiB of"),
    "torch out of memory": (readers.bloat, ("torch",), DataError, "more than 0.2 GiB of"),
    "a full disk": (readers.write, (), RuntimeError, "File too large"),
}


@LINUX
@pytest.mark.parametrize(("function", "arguments", "kind", "message"), BAD.values(), ids=BAD)
def test_a_bad_call_ends_in_an_error(function, arguments, kind, message, workers, tmp_path):
    with pytest.raises(kind, match=message):
        workers.call(function, *arguments, folder=tmp_path)
    assert workers.call(readers.add, 1, 2, folder=tmp_path) == 3


def test_a_slow_call_ends_in_time(tmp_path):
    workers = Workers(seconds=0.5)
    with pytest.raises(DataError, match="more than 0.5 seconds"):
        workers.call(readers.sleep, tmp_path / "begun", folder=tmp_path)


def test_calls_go_on_beside_a_slow_one_until_all_are_ended(workers, tmp_path):
    ends: list[str] = []

    def wait() -> None:
        try:
            workers.call(readers.sleep, tmp_path / "begun", folder=tmp_path)
        except DataError as error:
            ends.append(str(error))

    slow = threading.Thread(target=wait)
    slow.start()
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    assert workers.call(readers.add, 1, 2, folder=tmp_path) == 3
    assert slow.is_alive()
    workers.close()
    slow.join(10)
    assert ends == ["it cannot be read within the limits on memory and time"]
    with pytest.raises(DataError, match="the server stops"):
        workers.call(readers.add, 1, 2, folder=tmp_path)
