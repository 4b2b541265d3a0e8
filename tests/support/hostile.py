"""Changed files of a model, and what happens when they are loaded."""

from __future__ import annotations

import contextlib
import json
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from impflow_zoo import create_model
from impflow_zoo.models.fields import ModelError

T = TypeVar("T")

FEW = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
MANY = settings(FEW, max_examples=5000)


_HEADROOM = 2**30  # bytes of address space that absurd sizes do not fit in


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Little more memory than is taken already, within the block."""
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _HEADROOM, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def said_size(png: bytes, side: int) -> bytes:
    """A PNG file that says that it is a square of so many pixels."""
    content = bytearray(png)
    content[16:24] = struct.pack(">II", side, side)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


class Files(dict[str, bytes]):
    """Contents by name; not printed when a test fails."""

    def __repr__(self) -> str:
        return f"Files({', '.join(self)})"


def loads_or_says_why(folder: Path, files: dict[str, bytes]) -> bool:
    """Whether the files make a model; any error but the library's own fails the test."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    model = answer_or_none(create_model, folder)
    if model is not None:
        assert all(bool(t.isfinite().all()) for t in model.parameters())
    return model is not None


def answer_or_none(call: Callable[..., T], *arguments: Any) -> T | None:
    """What a call answers, or nothing if it ends in the library's own error, of one short line.

    Either takes it a second at most.
    """
    start = time.process_time()
    try:
        return call(*arguments)
    except ModelError as error:
        said = str(error)
        assert len(said) < 1000
        assert said.isprintable()
        return None
    finally:
        assert time.process_time() - start < 1


NUMBERS = st.one_of(
    st.integers(-2, 70),
    st.integers(min_value=-(10**400), max_value=10**400),
    st.sampled_from([2**31, 2**62, 2**63, 2**64, 10**9, 10**5]),
    st.floats(),
)
NAMES = [
    *("ImpFlow", "ResFlow", "SplineFlow", "MixtureDensityNetwork", "LinearGaussian"),
    *("image", "tabular", "spline", "mixture", "linear-gaussian"),
    *("published-image", "published-tabular", "spline-autoregressive", "residual"),
    *("sin", "exact", "dense", "__class__", "\ud800"),
]
WORDS = st.one_of(
    st.text(max_size=5),
    st.sampled_from(NAMES),
    st.just("x" * 5000),
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, WORDS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a tree of JSON."""
    keys = value if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])


@st.composite
def changed(draw: st.DrawFn, original: bytes) -> bytes:
    """JSON with a few places replaced, added or taken away."""
    data = json.loads(original)
    for _ in range(draw(st.integers(1, 3))):
        known = list(places(data))
        container, key = draw(st.sampled_from(known)) if known else (data, "config")
        what = draw(st.sampled_from(["replace", "replace", "add", "delete"]))
        if what == "delete":
            del container[key]
        elif what == "add" and isinstance(container, dict):
            container[draw(st.one_of(st.text(max_size=8), st.just("fetaures")))] = draw(VALUES)
        else:
            container[key] = draw(VALUES)
    return json.dumps(data).encode()
