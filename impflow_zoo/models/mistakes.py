"""Mistakes of users end in one line on stderr and exit code 2."""

from __future__ import annotations

import functools
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from tqdm import tqdm

from impflow_zoo.data import DataError
from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.memory import NotEnoughMemoryError, enough_memory
from impflow_zoo.models.texts import printable_output
from impflow_zoo.transforms.base import NUMERICAL_ERRORS
from impflow_zoo.transforms.labels import LabelError

__all__ = ["MISTAKES", "in_one_line"]

_OURS = (ModelError, DataError, LabelError, *NUMERICAL_ERRORS)
MISTAKES = (*_OURS, HfHubHTTPError, EntryNotFoundError, OSError)
_TRACEBACK = "IMPFLOW_ZOO_TRACEBACK"  # environment variable
_NEEDS_LESS = "fewer rows at a time need less (sample: -n, evaluate: --batch-size)"


@contextmanager
def in_one_line(name: str = "impflow-zoo") -> Iterator[None]:
    """Within the block, mistakes of users end the process, and warnings take one line.

    If the environment variable `IMPFLOW_ZOO_TRACEBACK` is set, a traceback stands before the line.
    No control character of a stranger's text reaches the terminal.

    Arguments:
        name: of the program, in front of each line.
    """
    with printable_output():
        try:
            with _mistakes_told(name):
                yield
        except Exception:  # outside, the interpreter would print it as it is
            traceback.print_exc()
            sys.exit(1)


@contextmanager
def _mistakes_told(name: str) -> Iterator[None]:
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.ERROR)  # what matters ends in our line
    try:
        with warnings.catch_warnings(), enough_memory(_NEEDS_LESS):
            warnings.showwarning = functools.partial(_warn, name)
            yield
    except (*MISTAKES, NotEnoughMemoryError) as error:
        if os.environ.get(_TRACEBACK):
            _show(error)
        rank = os.environ.get("RANK", "0")  # rows of its own may trouble any of several processes
        process = "" if rank == "0" else f", process {rank}"
        print(f"{name}{process}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    finally:
        log.setLevel(level)


def _show(error: BaseException) -> None:
    """The traceback of an error, and of all errors that led to it."""
    cause: BaseException | None = error
    while cause is not None:
        cause.__suppress_context__ = False  # `from None` keeps the line short
        cause = cause.__context__
    traceback.print_exception(error)


def _warn(name: str, message: Warning | str, *_: Any, **__: Any) -> None:
    tqdm.write(f"{name}: {' '.join(str(message).split())}", file=sys.stderr)  # past the bar
