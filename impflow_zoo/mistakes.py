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
from typing import Any, NoReturn

from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from tqdm import tqdm

from impflow_zoo.data import DataError
from impflow_zoo.models.fields import ModelError
from impflow_zoo.texts import printable_output
from impflow_zoo.transforms.base import NUMERICAL_ERRORS
from impflow_zoo.transforms.labels import LabelError

__all__ = ["MISTAKES", "in_one_line", "is_out_of_memory"]

_OURS = (ModelError, DataError, LabelError, *NUMERICAL_ERRORS)
MISTAKES = (*_OURS, HfHubHTTPError, EntryNotFoundError, OSError)
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory")  # torch has no type for it on CPUs


@contextmanager
def in_one_line(name: str = "impflow-zoo") -> Iterator[None]:
    """Within the block, mistakes of users end the process, and warnings take one line.

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
        with warnings.catch_warnings():
            warnings.showwarning = functools.partial(_warn, name)
            yield
    except MISTAKES as error:
        _fail(name, error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        _fail(name, "not enough memory: ask for fewer rows")
    finally:
        log.setLevel(level)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that there is not enough memory."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in _OUT_OF_MEMORY)


def _warn(name: str, message: Warning | str, *_: Any, **__: Any) -> None:
    tqdm.write(f"{name}: {' '.join(str(message).split())}", file=sys.stderr)  # past the bar


def _fail(name: str, message: Exception | str) -> NoReturn:
    rank = os.environ.get("RANK", "0")  # rows of its own may trouble any of several processes
    process = "" if rank == "0" else f", process {rank}"
    print(f"{name}{process}: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(2)
