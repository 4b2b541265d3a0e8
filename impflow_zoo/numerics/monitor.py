"""A record of what the numerics did: steps, residuals, estimator errors.

Transforms return what nflows expects, a value and a log-determinant. What the solver and the
estimator have to say beyond that is sent to whoever listens:

>>> with record() as events:
...     emit("root", steps=3)
>>> events
[('root', {'steps': 3})]
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

__all__ = ["Event", "emit", "listening", "record"]

Event = tuple[str, dict[str, Any]]

_events: ContextVar[list[Event] | None] = ContextVar("impflow_zoo_events", default=None)


@contextmanager
def record() -> Iterator[list[Event]]:
    """Collect the events of this thread until the end of the block."""
    events: list[Event] = []
    token = _events.set(events)
    try:
        yield events
    finally:
        _events.reset(token)


def listening() -> bool:
    """Whether anybody would receive an event: figures nobody reads need not be computed."""
    return _events.get() is not None


def emit(kind: str, **figures: Any) -> None:
    """Send one event to the innermost `record`, if there is one."""
    events = _events.get()
    if events is not None:
        events.append((kind, figures))
