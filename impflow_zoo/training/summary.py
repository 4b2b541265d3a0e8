"""How a run has ended, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["course", "reason"]

_LEVEL = 0.2  # part of the steps after the best validation that is no sign of overfitting


def reason(state: Mapping[str, Any]) -> str:
    """Why a run has ended, by its last state."""
    return {
        "steps": "all steps are done",
        "patience": f"stopped after {state['waited']} validations in a row without a gain",
        "time": "stopped by the clock, --resume goes on",
        "signal": "stopped by a signal, --resume goes on",
    }.get(state["ended"], "it had ended before")


def course(best_step: int, validated: int) -> str:
    """What the validations of a run say of its length.

    Arguments:
        best_step: step of the best validation.
        validated: step of the last one.
    """
    if best_step >= validated:
        return "validation still improved at the end: more steps may gain"
    if validated - best_step <= _LEVEL * validated:
        return "validation has levelled off"
    return (
        f"validation was best at step {best_step:,} of {validated:,} and got worse: overfitted; "
        "more weight_decay, a smaller model or fewer steps may gain"
    )
