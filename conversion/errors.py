"""What goes wrong is said in one line."""

from __future__ import annotations

from impflow_zoo.models.fields import ModelError

__all__ = ["ConversionError"]

_LONGEST = 400


class ConversionError(ModelError):
    """A checkpoint cannot be read or represented; the message is one line that says why."""

    def __init__(self, message: str) -> None:
        text = "".join(c if c.isprintable() else " " for c in message)
        super().__init__(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")
