"""A server of the demo in a process of its own, and its page in a browser."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.checkout import CHECKOUT

__all__ = ["CHROMIUM", "FILES", "PATIENCE", "Page", "Server", "served", "wait_until"]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
PATIENCE = 60  # seconds that a busy machine is given
FILES = "your-file"  # the address of the page for files


def wait_until(condition: Callable[[], Any]) -> None:
    """Wait until a condition holds; a busy machine is given time."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.05)


@dataclass(frozen=True)
class Server:
    """A server in a process of its own.

    Arguments:
        address: where it answers.
        errors: what it wrote to stderr so far.
        temporary: the folder for its temporary files.
        process: its process, which leads a group of its own.
    """

    address: str
    errors: Path
    temporary: Path
    process: subprocess.Popen[str]

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.address.rstrip("/").rpartition(":")[2])

    def stop(self, how: signal.Signals) -> None:
        """Stop it by a signal, and check that nothing is left: no file, no process, no error."""
        self.process.send_signal(how)
        assert self.process.wait(PATIENCE) == 0, self.errors.read_text()
        assert [*self.temporary.iterdir()] == []
        wait_until(lambda: not _is_there(self.process.pid))
        assert "ERROR" not in self.errors.read_text()


@contextlib.contextmanager
def served(folder: Path, *words: object, **environment: str) -> Iterator[Server]:
    """A server started by `python WORDS` in a folder, until the block ends."""
    errors, temporary = folder / "errors.txt", folder / "temporary"
    temporary.mkdir()
    own = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TMPDIR": str(temporary)}
    paths = os.pathsep.join(map(str, (CHECKOUT, CHECKOUT / "tests")))
    with (
        errors.open("wb") as stderr,
        subprocess.Popen(
            [sys.executable, *map(str, words)],
            cwd=folder,
            env={**os.environ, **own, "PYTHONPATH": paths, **environment},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found, errors.read_text()
            yield Server(found[0], errors, temporary, process)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _is_there(group: int) -> bool:
    """Whether a group of processes has any left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


class Page:
    """One user's page."""

    def __init__(self, context: Any, address: str) -> None:
        self.tab, self.asked, self._used = context.new_page(), [], False
        self.tab.set_default_timeout(1000 * PATIENCE)
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.goto(address)
        if FILES in address:
            self.tab.wait_for_selector("#file")
            self.quiet()
        else:
            self.settled()

    def settled(self) -> None:
        """Wait until the picture and the numbers are there and nothing is being computed."""
        self.tab.wait_for_selector("#picture img")
        self.tab.get_by_role("tab", name="Certificate").first.wait_for(state="attached")
        self.quiet()

    def quiet(self) -> None:
        """Wait until nothing is being computed."""
        self.tab.evaluate("window.quietSince = null")
        self.tab.wait_for_function(
            """() => {
                const busy = document.querySelector('[data-testid=status-tracker]:not(.hide)')
                window.quietSince = busy ? null : window.quietSince ?? performance.now()
                return window.quietSince && performance.now() - window.quietSince > 250
            }""",
            polling=50,
        )

    def begin(self, model: str) -> None:
        """Show a model as at first, whatever was done on this page before."""
        if self.tab.get_by_label("Model", exact=True).input_value() != model:
            self.choose(model)
        elif self._used:
            self.tab.reload()
            self.settled()
        self._used = True

    def choose(self, model: str) -> None:
        """Choose a model."""
        box = self.tab.get_by_label("Model", exact=True)
        box.click()
        box.fill(model)
        self.picture_after(self.tab.get_by_role("option", name=model, exact=True).click)
        self.tab.wait_for_selector(f"#tabs-of-{model}", state="attached")
        self.settled()

    def picture_after(self, act: Any) -> str:
        """Where the picture lies that an act leads to."""
        before = self.tab.get_attribute("#picture img", "src")
        act()
        self.tab.wait_for_function(
            "old => (i => i && i.src != old && i.complete)(document.querySelector('#picture img'))",
            arg=before,
        )
        return str(self.tab.get_attribute("#picture img", "src"))

    def numbers_after(self, act: Any) -> dict[str, str]:
        """The table of the point or row that an act leads to."""
        before = self.tab.inner_text("#numbers")
        act()
        self.tab.wait_for_function(
            "old => document.querySelector('#numbers').innerText != old", arg=before
        )
        self.quiet()
        return self.numbers()

    def numbers(self) -> dict[str, str]:
        """The table of the point or row, as it reads."""
        rows = [line.inner_text().split("\t") for line in self.tab.locator("#numbers tr").all()]
        return {key.strip(): value.strip() for key, value in rows[1:]}

    def set_number(self, label: str, value: float) -> None:
        """Type a number: of a slider into the box beside it."""
        box = self.tab.get_by_label(f"number input for {label}")
        box = box if box.count() else self.tab.get_by_label(label)
        box.first.fill(str(value))
        box.first.press("Enter")

    def open_tab(self, name: str) -> None:
        """Show one of the tabs."""
        self.tab.get_by_role("tab", name=name).click()

    def give(self, path: Path) -> None:
        """Give a file, on the page for files, in the place of one that was given before."""
        if not self.tab.locator("#file").count():
            self.tab.get_by_role("link", name="Score your own file").click()
        clear = self.tab.locator("#file button[aria-label=Clear]")
        if clear.count():
            clear.click()
        self.tab.set_input_files("#file input[type=file]", path)

    def upload(self, path: Path) -> str:
        """Give a file, and what is said of it."""
        self.give(path)
        self.tab.wait_for_function(
            "name => document.querySelector('#scored').innerText.includes(name)", arg=path.name
        )
        self.quiet()
        return str(self.tab.inner_text("#scored")).strip()
