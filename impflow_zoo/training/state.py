"""What a checkpoint says of a run, checked before anything is done by it."""

from __future__ import annotations

from typing import Any

from impflow_zoo.models.fields import ConfigError, convert, require
from impflow_zoo.training.facts import TrainingFacts

__all__ = ["check_state"]

_COUNTS = (
    "stage",
    "step",
    "rows",
    "skipped",
    "left_out",
    "best_step",
    "waited",
    "validated",
    "data_rows",
    "logged",
    "log_size",
)
_KINDS: dict[str, Any] = {
    **dict.fromkeys(_COUNTS, int),
    "seed": int,
    "best": float | None,
    **dict.fromkeys(("seconds", "cpu_seconds", "unconverged"), float),
    **dict.fromkeys(("data", "checksum", "validation", "init_from"), str),
    "hardware": list[str],
    "curve": list[list[float]],
    "before": TrainingFacts | None,
}
_FIGURES = frozenset(
    {
        "log_density",
        "solver_steps",
        "unconverged",
        "gradient_norm",
        "learning_rate",
        "rows",
        "seconds",
    }
)  # of a step


def check_state(state: Any) -> None:
    """Refuse what no run has written.

    Arguments:
        state: as `Trainer.checkpoint` writes it.

    Raises:
        ConfigError: naming what is wrong.
    """
    require(isinstance(state, dict), "state", state, "values by name")
    for name in (*_KINDS, "unlogged"):
        if name not in state:
            raise ConfigError(f"it has no {name!r}")
    for name, kind in _KINDS.items():
        convert(state[name], kind, name)
    for name in (*_COUNTS, "seconds", "cpu_seconds"):
        require(state[name] >= 0, name, state[name], "at least 0")
    for point in state["curve"]:
        require(len(point) == 3, "curve", point, "rows seen, seconds and a value")
    steps = state["unlogged"]
    require(isinstance(steps, list), "unlogged", steps, "figures of steps")
    for figures in steps:
        right = isinstance(figures, dict) and figures.keys() == _FIGURES
        right = right and all(type(value) in (int, float) for value in figures.values())
        require(right, "unlogged", figures, "figures of a step")  # may be infinite
