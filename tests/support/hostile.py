"""Changed files of a model, and what happens when they are loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from impflow_zoo import create_model
from impflow_zoo.models.fields import ModelError

FEW = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
MANY = settings(FEW, max_examples=1000)


class Files(dict[str, bytes]):
    """Contents by name; not printed when a test fails."""

    def __repr__(self) -> str:
        return f"Files({', '.join(self)})"


def loads_or_says_why(folder: Path, files: dict[str, bytes]) -> bool:
    """Whether the files make a model; any error but the library's own fails the test."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    try:
        model = create_model(folder)
    except ModelError as error:
        said = str(error)
    else:
        assert all(bool(t.isfinite().all()) for t in model.parameters())
        return True
    assert len(said) < 1000
    assert said.isprintable()
    return False


NUMBERS = st.one_of(
    st.integers(-2, 70),
    st.integers(min_value=-(10**400), max_value=10**400),
    st.sampled_from([2**31, 2**62, 2**63, 2**64, 10**9, 10**5]),
    st.floats(),
)
WORDS = st.one_of(
    st.text(max_size=5),
    st.sampled_from(
        ["ImpFlow", "ResFlow", "image", "tabular", "sin", "exact", "__class__", "\ud800"]
    ),
    st.just("x" * 5000),
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, WORDS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a tree of JSON."""
    keys = value if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


@st.composite
def changed(draw: st.DrawFn, original: bytes) -> bytes:
    """JSON with a few places replaced, added or taken away."""
    data = json.loads(original)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(data))
        container, key = draw(st.sampled_from(places)) if places else (data, "config")
        what = draw(st.sampled_from(["replace", "replace", "add", "delete"]))
        if what == "delete":
            del container[key]
        elif what == "add" and isinstance(container, dict):
            container[draw(st.one_of(st.text(max_size=8), st.just("fetaures")))] = draw(VALUES)
        else:
            container[key] = draw(VALUES)
    return json.dumps(data).encode()
