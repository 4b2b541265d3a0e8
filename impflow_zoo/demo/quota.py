"""Files of users take no more room than a server has for them, and go once they were fetched.

While more than half of the room is taken, each user has a share of it. Whoever has used it up
waits, and uploads of others go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from impflow_zoo.demo.asgi import App, Message, Receive, Send, answer, content_length

__all__ = ["BYTES", "FILES", "SCORED", "Quota"]

BYTES, FILES = 1_000_000_000, 10_000  # of all users together
_PART = 10  # how many users fill the room with their shares
_KEPT = 600  # seconds that files stay, at least; twice as long at most
SCORED = "-scored.csv"  # how names of files end that were scored
_FORM = 1_000_000  # bytes of an upload beside the file itself
_FULL = "The server holds too many files: try again in ten minutes."
_MUCH = "You have sent much, and others need room too: try again in twenty minutes."
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
        self._sent = _Sent()

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
        size = content_length(scope)
        if size is None or size > self._largest + _FORM:
            await answer(send, 413, _LARGE.format(self._largest))
            return
        user = _user(scope)
        files, taken = await asyncio.to_thread(_taken, self._folder)
        taken += self._coming + size
        # Nothing is awaited before an upload is refused, or counted as coming.
        if files >= FILES or taken > BYTES:
            await answer(send, 503, _FULL)
            return
        if (2 * files > FILES or 2 * taken > BYTES) and self._sent.much(user, size):
            await answer(send, 503, _MUCH)
            return
        self._sent.add(user, size, 1)
        self._coming += size
        try:
            await self.app(scope, receive, send)
            more = (await asyncio.to_thread(_taken, self._folder))[0] - files
            self._sent.add(user, 0, max(0, more - 1))  # a request may bring many files
        finally:
            self._coming -= size

    def _remove(self, file: Path) -> None:
        """Remove a file that was fetched, if it is one of ours."""
        with contextlib.suppress(OSError, ValueError):  # of paths that no file can have
            if file.resolve().is_relative_to(self._folder):
                file.unlink(missing_ok=True)


class _Sent:
    """What each user has sent while files stay."""

    def __init__(self) -> None:
        self._periods: dict[int, tuple[Counter[str], Counter[str]]] = {}  # bytes and files, by user

    def add(self, user: str, size: int, files: int) -> None:
        """Count bytes and files of a user."""
        now = int(time.monotonic() // _KEPT)
        self._periods = {at: sent for at, sent in self._periods.items() if at >= now - 1}
        bytes_of, files_of = self._periods.setdefault(now, (Counter(), Counter()))
        bytes_of[user] += size
        files_of[user] += files

    def much(self, user: str, size: int) -> bool:
        """Whether a file of this many bytes is beyond the share of a user; a first one is not."""
        least = int(time.monotonic() // _KEPT) - 1
        recent = [sent for at, sent in self._periods.items() if at >= least]
        size += sum(bytes_of[user] for bytes_of, _ in recent)
        files = sum(files_of[user] for _, files_of in recent)
        return files > 0 and (_PART * size > BYTES or _PART * (files + 1) > FILES)


def _user(scope: Message) -> str:
    """The address that a request is from; of IPv6 the network, which has many addresses."""
    host = (scope.get("client") or ("",))[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else host


def _taken(folder: Path) -> tuple[int, int]:
    """The number of files in a folder, and their bytes."""
    sizes = list(_sizes(folder))
    return len(sizes), sum(sizes)


def _sizes(folder: Path) -> Iterator[int]:
    """Sizes of files. gradio leaves an empty one for each that is scored; old ones are removed."""
    old = time.time() - _KEPT
    for where, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(where, name)
            try:
                found = os.lstat(path)
                if not found.st_size and found.st_mtime < old:
                    os.unlink(path)
                else:
                    yield found.st_size
            except FileNotFoundError:  # removed meanwhile
                continue
