"""Files as the papers' public scripts save them, made from plain tensors.

The scripts pickle the whole live model next to its averaged weights, by classes of their own
packages; stand-ins of the same names take their place here while a file is written.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import types
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

REFERENCE = Path(__file__).with_name("reference")
FIXTURES = tuple(sorted(path.stem for path in REFERENCE.glob("*.safetensors")))

State = dict[str, Tensor]


def read_fixture(name: str) -> tuple[dict[str, Any], State, State, State]:
    """Settings, weights, averaged weights and golden values of a model the public code trained."""
    parts: dict[str, State] = {"state": {}, "ema": {}, "golden": {}}
    with safe_open(REFERENCE / f"{name}.safetensors", framework="pt") as file:
        args = json.loads(file.metadata()["args"])
        for key in file.keys():  # noqa: SIM118 - not a dict
            part, _, rest = key.partition("/")
            parts[part][rest] = file.get_tensor(key)
    return args, parts["state"], parts["ema"], parts["golden"]


def write_fixture(folder: Path, name: str, **options: Any) -> Path:
    """The checkpoint of a fixture; options as in `write`."""
    args, state, averaged, _ = read_fixture(name)
    return write(folder / f"{name}.pth", args, state, averaged or None, **options)


def write(
    path: Path,
    args: dict[str, Any],
    state: State,
    averaged: State | None = None,
    *,
    legacy: bool = False,
    listed: bool = False,
    prefix: str = "",
) -> Path:
    """Write a checkpoint with everything that the scripts put into one.

    Arguments:
        path: where to.
        args: settings of the script.
        state: the weights; copies of the nets of implicit blocks are added.
        averaged: averaged weights, or None for a file without them.
        legacy: the format of torch before 1.6.
        listed: averaged weights as a list in the order of the parameters.
        prefix: before every name, as `DataParallel` puts it.
    """
    full = OrderedDict((prefix + k, v) for k, v in {**state, **_copies(state)}.items())
    content: dict[str, Any] = {"args": argparse.Namespace(**args), "state_dict": full}
    with _public_packages() as classes:
        if averaged is not None:
            ema = classes["ema"]()
            ema.module, ema.decay = classes["model"](state), 0.999
            shadows = {**averaged, **_copies(averaged)}
            ema.shadow_params = list(shadows.values()) if listed else shadows
            moments = {0: {"step": 3, "exp_avg": torch.zeros(3)}}
            content |= {
                "optimizer_state_dict": {"state": moments, "param_groups": [{"params": [0]}]},
                "ema": ema,
                "test_bpd": 3.5,
            }
        with warnings.catch_warnings():  # the older format looks for the source of classes
            warnings.simplefilter("ignore")
            torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def _copies(state: State) -> State:
    copies = {}
    for key, tensor in state.items():
        for net in (".nnet_x.", ".nnet_z."):
            if net in key:
                copies[key.replace(net, f"{net[:-1]}_copy.")] = tensor.clone()
    return copies


@contextlib.contextmanager
def _public_packages() -> Iterator[dict[str, type]]:
    """Modules `lib.utils` and `lib.layers.base` for as long as it takes to write a file."""

    class ExponentialMovingAverage:
        pass

    class Layer(nn.Module):
        def __init__(self, state: State) -> None:
            super().__init__()
            for i, tensor in enumerate(state.values()):
                if tensor.is_floating_point():
                    self.register_parameter(f"p{i}", nn.Parameter(tensor.clone()))
                else:
                    self.register_buffer(f"p{i}", tensor.clone())

    made = {"lib.utils": ExponentialMovingAverage, "lib.layers.base": Layer}
    packages = {name: types.ModuleType(name) for name in ("lib", "lib.layers", *made)}
    for name, cls in made.items():
        cls.__module__, cls.__qualname__ = name, cls.__name__
        setattr(packages[name], cls.__name__, cls)
    sys.modules.update(packages)
    try:
        yield {"ema": ExponentialMovingAverage, "model": Layer}
    finally:
        for name in packages:
            del sys.modules[name]
