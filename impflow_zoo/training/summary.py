"""How a run has ended, in words."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from impflow_zoo.models.metrics import METRICS
from impflow_zoo.models.preprocessing import preprocessing_of
from impflow_zoo.training.recipe import Recipe

__all__ = ["closing", "course", "reason"]

# What is no sign of overfitting: so few steps after the best validation, as a part of all, or a
# last value that is so little worse, in the unit of the metric.
_LEVEL_STEPS, _LEVEL = 0.2, 0.01


def reason(state: Mapping[str, Any]) -> str:
    """Why a run has ended, by its last state."""
    return {
        "steps": "all steps are done",
        "patience": f"stopped after {state['waited']} validations in a row without a gain",
        "time": "stopped by the clock, --resume goes on",
        "signal": "stopped by a signal, --resume goes on",
    }.get(state["ended"], "it had ended before")


def course(
    best_step: int,
    validated: int,
    worse: float,
    unit: str,
    remedy: str = "more weight_decay, a smaller model or fewer steps",
) -> str:
    """What the validations of a run say of its length.

    Arguments:
        best_step: step of the best validation; 0 if that of an earlier stage was better than all.
        validated: step of the last one.
        worse: how much worse its value was than the best, in `unit`.
        remedy: what to try if later steps overfit.
    """
    if best_step == 0:
        return "no validation was better than the best of an earlier stage"
    if best_step >= validated:
        return "validation still improved at the end: more steps may gain"
    if validated - best_step <= _LEVEL_STEPS * validated or worse <= _LEVEL:
        return "validation has levelled off"
    return (
        f"validation was best at step {best_step:,} of {validated:,} and {worse:.4f} {unit} worse "
        f"at the end: later steps overfit, and the weights of the best step are kept; try {remedy}"
    )


def closing(
    recipe: Recipe, state: Mapping[str, Any], folder: Path, *, dry_run: bool = False
) -> tuple[float | None, str]:
    """The best validation value of a run in the model's metric, and its last lines.

    Arguments:
        recipe: of the run.
        state: what `train` returns.
        folder: where the model is.
        dry_run: whether the run has kept nothing.

    Returns:
        The value, None without a validation and for an ensemble whose trainings are not all done,
        and the text.
    """
    config, ended = recipe.config, len(state.get("members", ()))
    metric = METRICS[config.metric]
    begun = "members" in state and ended < recipe.ensemble
    value, best = None, "no validation yet"
    if state["best"] is not None:
        value = float(preprocessing_of(config).metric(torch.tensor(state["best"])))
        text = f"{value:.4f} {metric.unit}"
        best = f"best validation {text} at step {state['best_step']}"
        if ended and not begun:
            best = f"{ended} trainings, validation of their mixture {text}"
    if begun:
        value, best = None, f"training {ended + 1} of {recipe.ensemble}: {best}"
    lines = [
        f"step {state['step']}, {best}, {state['skipped']} steps skipped, "
        f"{state['cpu_seconds'] / 60:.1f} CPU minutes, {state['seconds'] / 60:.1f} by the clock"
    ]
    if dry_run:
        lines[0] = f"dry run, nothing was kept: {lines[0]}"
    elif begun:
        lines.append(reason(state))
    elif value is not None:
        # Else its schedule goes on, or the value is that of a mixture.
        whole = state["ended"] not in ("time", "signal") and not ended
        told = ""
        if whole:
            curve = state["curve"]  # none if each validation of the last stage failed
            worse = abs(value - curve[-1][2]) if curve else 0.0
            told = f"; {course(state['best_step'], state['validated'], worse, metric.unit)}"
        lines.append(f"{reason(state)}{told}")
        if (gaussian := state["gaussian"]) is not None:
            gap = metric.beside(value, gaussian)
            fitted = "fitted to the training rows"
            lines.append(f"a Gaussian {fitted}: {gaussian:.4f} {metric.unit}; {gap}")
        again = f"impflow-zoo evaluate {shlex.quote(str(folder))} --dataset HELD_OUT"
        lines.append(f"the model is in {folder}: {again}")
    else:
        lines.append(f"{reason(state)}: the run is in {folder}")
    return value, "\n".join(lines)
