"""Files of users take no more room than a server has for them, and go once they were fetched."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

from impflow_zoo.demo.hosts import App, Message, Receive, Send, answer

__all__ = ["BYTES", "FILES", "SCORED", "Quota"]

BYTES, FILES = 1_000_000_000, 10_000  # of all users together
SCORED = "-scored.csv"  # how names of files end that were scored
_FORM = 1_000_000  # bytes of an upload beside the file itself
_FULL = "The server holds too many files: try again in ten minutes."
_LARGE = "The file is larger than the server takes: at most {:,} bytes."


class Quota:
    """An ASGI app that passes on uploads while there is room for them.

    A file that was scored is removed when it has been fetched.

    Arguments:
        app: to pass requests on to.
        folder: where all files of users lie.
        largest: bytes of a file.
    """

    def __init__(self, app: App, folder: Path, largest: int) -> None:
        self.app = app
        self._folder, self._largest = folder.resolve(), largest
        self._coming = 0  # bytes that are on their way

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        path = scope["path"] if scope["type"] == "http" else ""
        if scope.get("method") == "POST" and path.rstrip("/").endswith("/upload"):
            await self._take(scope, receive, send)
            return
        await self.app(scope, receive, send)
        if scope.get("method") == "GET" and path.endswith(SCORED):
            self._remove(Path(path.partition("/file=")[2]))

    async def _take(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass an upload on, or refuse it."""
        size = _length(scope)
        if size is None or size > self._largest + _FORM:
            await answer(send, 413, _LARGE.format(self._largest))
            return
        self._coming += size
        try:
            files, taken = await asyncio.to_thread(_taken, self._folder)
            if files >= FILES or taken + self._coming > BYTES:
                await answer(send, 503, _FULL)
            else:
                await self.app(scope, receive, send)
        finally:
            self._coming -= size

    def _remove(self, file: Path) -> None:
        """Remove a file that was fetched, if it is one of ours."""
        if file.resolve().is_relative_to(self._folder):
            file.unlink(missing_ok=True)


def _length(scope: Message) -> int | None:
    """The bytes of a request, if it tells them."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return None


def _taken(folder: Path) -> tuple[int, int]:
    """The number of files in a folder, and their bytes."""
    sizes = list(_sizes(folder))
    return len(sizes), sum(sizes)


def _sizes(folder: Path) -> Iterator[int]:
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                yield os.lstat(os.path.join(where, name)).st_size
            except FileNotFoundError:  # removed meanwhile
                continue
