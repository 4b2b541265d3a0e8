"""What a checkpoint of the public scripts holds: settings, layers in order, weights."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from conversion.allowed import StoredTensor
from conversion.archive import Archive
from conversion.errors import ConversionError
from conversion.pickles import Standin

__all__ = ["Layer", "Net", "Reference", "Unit"]

_UNIT = re.compile(r"(?:transforms\.(\d+)\.)?chain\.(\d+)\.(.+)")
_NET = re.compile(r"(nnet|nnet_x|nnet_z)\.(?P<fc>nnet\.)?(\d+)\.(\w+)")
_COPY = re.compile(r"nnet_[xz]_copy\.")
_ACTNORM = {"weight", "bias", "initialized"}
# Of estimators, or computed from other tensors: nothing that a model's values depend on.
_DROPPED = {"lamb", "geom_p", "last_n_samples", "last_firmom", "last_secmom"}
_BUFFERS = {"u", "v", "scale", "initialized", "spatial_dims", "last_n_samples"} | {
    "last_firmom",
    "last_secmom",
}


@dataclass
class Layer:
    """One module of a net: its place, and the full keys of its tensors by name."""

    index: int
    keys: dict[str, str] = field(default_factory=dict)


@dataclass
class Net:
    """A net of a block.

    Arguments:
        name: `nnet`, `nnet_x` or `nnet_z`.
        flat: whether it takes flattened maps.
        modules: those with tensors, by place.
    """

    name: str
    flat: bool = False
    modules: dict[int, Layer] = field(default_factory=dict)

    @property
    def layers(self) -> list[Layer]:
        """The linear or convolutional layers, first to last."""
        return [m for _, m in sorted(self.modules.items()) if "weight" in m.keys]

    @property
    def activations(self) -> list[Layer]:
        """The activations with parameters, first to last."""
        return [m for _, m in sorted(self.modules.items()) if "weight" not in m.keys]


@dataclass
class Unit:
    """An ActNorm or a block in the chain.

    Arguments:
        scale: which of the chains of an image model.
        index: its place there.
        actnorm: keys of the ActNorm's tensors by name, if it is one.
        nets: the block's nets by name, if it is one.
    """

    scale: int
    index: int
    actnorm: dict[str, str] = field(default_factory=dict)
    nets: dict[str, Net] = field(default_factory=dict)


class Reference:
    """A checkpoint of the public scripts.

    Arguments:
        archive: the open file.
    """

    def __init__(self, archive: Archive) -> None:
        content = archive.content
        if not isinstance(content, dict) or not {"args", "state_dict"} <= content.keys():
            raise ConversionError(
                "no 'args' and 'state_dict' in the checkpoint: not of the public training scripts"
            )
        arguments, tensors = content["args"], content["state_dict"]
        if not isinstance(arguments, Standin) or not isinstance(tensors, dict):
            raise ConversionError("'args' is no Namespace, or 'state_dict' no dictionary")
        if not all(isinstance(name, str) for name in arguments.state):
            raise ConversionError("a setting in 'args' has a name that is no text: damaged")
        self._archive = archive
        self.args: dict[str, Any] = arguments.state
        self.tensors = _plain(tensors)
        self.averages = self._averages(content.get("ema"))
        self.images = any(key.startswith("transforms.") for key in self.tensors)
        self.units = _units(self.tensors)

    @property
    def implicit(self) -> bool:
        """Whether the blocks are implicit ones."""
        return any("nnet_x" in unit.nets for unit in self.units)

    @property
    def blocks(self) -> list[Unit]:
        """The blocks, first to last."""
        return [unit for unit in self.units if unit.nets]

    def read(self, key: str, *, averaged: bool) -> Tensor:
        """The numbers of a tensor: the averaged ones, where there are some and they are wanted."""
        tensor = self.averages.get(key, self.tensors[key]) if averaged else self.tensors[key]
        return self._archive.read(tensor)

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of a tensor, which is not read."""
        return self.tensors[key].shape

    def _averages(self, ema: Any) -> dict[str, StoredTensor]:
        if not isinstance(ema, Standin):
            return {}
        shadows = ema.state.get("shadow_params")
        if isinstance(shadows, list):  # in the order of the parameters
            names = [key for key in self.tensors if _is_parameter(key)]
            if len(names) != len(shadows):
                raise ConversionError(
                    f"{len(shadows)} averaged tensors for {len(names)} parameters: damaged"
                )
            shadows = dict(zip(names, shadows, strict=True))
        if not isinstance(shadows, dict):
            raise ConversionError("averaged weights are neither listed nor named: damaged")
        averages = _plain(shadows)
        for key, tensor in averages.items():
            if key not in self.tensors or self.tensors[key].shape != tensor.shape:
                raise ConversionError(f"averaged {key} has no counterpart of its shape: damaged")
        return averages


def _is_parameter(key: str) -> bool:
    name = key.rpartition(".")[2]
    return name not in _BUFFERS and name != "codomain"  # a domain of another layer


def _plain(tensors: dict[Any, Any]) -> dict[str, StoredTensor]:
    """The tensors without the prefix of `DataParallel`."""
    if not all(isinstance(k, str) and isinstance(t, StoredTensor) for k, t in tensors.items()):
        raise ConversionError("the weights hold something that is no tensor with a name: damaged")
    return {key.removeprefix("module."): tensor for key, tensor in tensors.items()}


def _units(tensors: dict[str, StoredTensor]) -> list[Unit]:
    units: dict[tuple[int, int], Unit] = {}
    for key in tensors:
        match = _UNIT.fullmatch(key)
        if match is None:
            raise ConversionError(f"{key} is no tensor of a flow of the two papers")
        scale, index, rest = int(match[1] or 0), int(match[2]), match[3]
        if _COPY.match(rest) or rest in _DROPPED:
            continue
        unit = units.setdefault((scale, index), Unit(scale, index))
        net, name = _NET.fullmatch(rest), rest.removeprefix("fc_module.")
        if net is not None:
            own = unit.nets.setdefault(net[1], Net(net[1], flat=net["fc"] is not None))
            own.modules.setdefault(int(net[3]), Layer(int(net[3]))).keys[net[4]] = key
        elif name in _ACTNORM:
            unit.actnorm[name] = key
        else:
            raise ConversionError(
                f"{key} belongs to a layer that is neither a block nor an ActNorm (batchnorm, "
                "quadratic, coupling?): not represented here"
            )
    for unit in units.values():
        kind = set(unit.nets) if unit.nets else set(unit.actnorm)
        if kind not in ({"nnet"}, {"nnet_x", "nnet_z"}, _ACTNORM) or (unit.nets and unit.actnorm):
            raise ConversionError(f"chain.{unit.index} is neither a block nor an ActNorm: damaged")
    return [unit for _, unit in sorted(units.items())]
