"""Checkpoints of a training run: one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn

from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.folder import read_safetensors
from impflow_zoo.models.reading import readable
from impflow_zoo.models.writing import write_whole

__all__ = ["CheckpointError", "checkpoint_state", "read_checkpoint", "write_checkpoint"]

_STATE = "state"


class CheckpointError(ModelError):
    """A checkpoint is missing, damaged, or belongs to another recipe."""


def write_checkpoint(
    path: Path,
    modules: dict[str, nn.Module],
    optimizers: dict[str, torch.optim.Optimizer],
    state: dict[str, Any],
) -> None:
    """Write modules, optimizers and plain numbers.

    Arguments:
        path: path of the file.
        modules: modules by the name in the file.
        optimizers: by their names; their per-parameter tensors are stored.
        state: numbers, strings and lists, stored as JSON.
    """
    parts = {name: module.state_dict() for name, module in modules.items()}
    for name, optimizer in optimizers.items():
        for index, entry in optimizer.state_dict()["state"].items():
            parts[f"{name}/{index}"] = entry
    tensors = {
        f"{name}/{key}": value.detach().cpu().clone().contiguous()
        for name, part in parts.items()
        for key, value in part.items()
    }
    write_whole(path, serialise(tensors, metadata={_STATE: json.dumps(state)}))


def checkpoint_state(
    path: Path, check: Callable[[dict[str, Any]], None] | None = None
) -> dict[str, Any]:
    """The plain numbers in a checkpoint.

    Arguments:
        path: path of the file.
        check: refuses what no run has written, by a `ValueError`.

    Raises:
        CheckpointError: if the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            state: dict[str, Any] = json.loads(file.metadata()[_STATE])
        if check is not None:
            check(state)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {readable(error)}") from None
    return state


def read_checkpoint(
    path: Path,
    modules: dict[str, nn.Module],
    optimizers: dict[str, torch.optim.Optimizer],
    check: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Restore what `write_checkpoint` wrote, and return its state.

    Raises:
        CheckpointError: if the file is damaged, or does not fit.
    """
    state, parts = checkpoint_state(path, check), _parts(read_safetensors(path))
    try:
        for name, module in modules.items():
            _refuse_infinite(parts[name])
            module.load_state_dict(parts[name])
        for name, optimizer in optimizers.items():
            known = optimizer.state_dict()
            known["state"] = {
                int(index): part
                for key, part in parts.items()
                if (index := key.removeprefix(f"{name}/")) != key
            }
            _check_shapes(optimizer, known["state"])
            optimizer.load_state_dict(known)
    except (RuntimeError, KeyError, ValueError) as error:
        *_, reason = str(error).split(":\n\t", maxsplit=1)  # that of torch has a headline
        raise CheckpointError(
            f"{path} belongs to another recipe: {readable(reason.splitlines()[0])}"
        ) from None
    return state


def _refuse_infinite(weights: dict[str, Tensor]) -> None:
    """No step would be applied to such weights, nor to others beside them."""
    for key, tensor in weights.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"{key} holds NaN or infinity")


def _check_shapes(optimizer: torch.optim.Optimizer, entries: dict[int, dict[str, Tensor]]) -> None:
    """Entries of an optimizer have the shape of their parameter, or none; torch does not look."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, entry in entries.items():
        if not 0 <= index < len(parameters):
            raise ValueError(f"there is no parameter {index}")
        for key, tensor in entry.items():
            if tensor.dim() and tensor.shape != parameters[index].shape:
                raise ValueError(f"{key} of parameter {index} has shape {list(tensor.shape)}")


def _parts(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors by what stands before the last slash of their keys."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, rest = key.rpartition("/")
        parts.setdefault(name, {})[rest] = value
    return parts
