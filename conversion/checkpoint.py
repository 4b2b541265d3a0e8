"""What a checkpoint of the public scripts holds, and its tensors under the names that ours have."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nflows.transforms import ActNorm
from torch import Tensor, nn

from conversion.archive import Archive
from conversion.pickles import ConversionError, Standin, StoredTensor
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.transforms.base import ResidualBlock

__all__ = ["Checkpoint", "names_of", "weights_of"]

_KEY = re.compile(
    r"(?P<unit>(transforms\.(?P<scale>\d+)\.)?chain\.(?P<index>\d+))\."
    r"((?P<net>nnet|nnet_x|nnet_z)\.(?P<flat>nnet\.)?(?P<place>\d+)\.|fc_module\.)?(?P<name>\w+)"
)
_LONGEST_NAME = 200  # which the patterns below take no time for
# Of estimators, of copies of nets, or computed from other tensors: no value depends on them.
_DROPPED = re.compile(
    r".*(\.nnet_[xz]_copy\..*|\.(lamb|geom_p|last_n_samples|last_firmom|last_secmom)"
    r"|\.nnet.*\.(initialized|spatial_dims|domain|codomain))"
)
_BUFFERS = re.compile(r".*\.(u|v|scale|initialized|spatial_dims|last_\w+|codomain)")
_ACTNORM = {"weight": "log_scale", "bias": "shift", "initialized": "initialized"}
_NETS = {"nnet": "net", "nnet_x": "net_x", "nnet_z": "net_z"}


@dataclass(frozen=True, order=True)
class Place:
    """Where a tensor belongs: a unit (block or ActNorm) of a chain, a net, a module in it."""

    scale: int
    index: int
    net: str
    module: int
    name: str
    flat: bool
    key: str


class Checkpoint:
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
        args, ema = content["args"], content.get("ema")
        if not isinstance(args, Standin):
            raise ConversionError("'args' in the checkpoint is no Namespace: damaged")
        self._archive = archive
        self.args: dict[str, Any] = args.state
        self.tensors = _plain(content["state_dict"])
        shadows = ema.state.get("shadow_params") if isinstance(ema, Standin) else None
        self.averages = {} if shadows is None else self._averages(shadows)
        self.images = any(key.startswith("transforms.") for key in self.tensors)

    @cached_property
    def places(self) -> list[Place]:
        """Where the tensors belong that a model needs, in the order of its layers."""
        return sorted(_place(key) for key in self.tensors if not _DROPPED.fullmatch(key))

    @cached_property
    def first(self) -> Place:
        """Where the first layer's weight belongs."""
        first = next((p for p in self.places if p.net and p.name == "weight"), None)
        if first is None or len(self.tensors[first.key].shape) < 2:
            raise ConversionError("the checkpoint has no implicit or residual block with layers")
        return first

    @property
    def first_shape(self) -> tuple[int, ...]:
        """Shape of the first layer's weight."""
        return self.tensors[self.first.key].shape

    def read(self, key: str, *, averaged: bool) -> Tensor:
        """The numbers of a tensor: the averaged ones, where there are some and they are wanted."""
        tensor = self.averages.get(key, self.tensors[key]) if averaged else self.tensors[key]
        return self._archive.read(tensor)

    def _averages(self, shadows: Any) -> dict[str, StoredTensor]:
        if isinstance(shadows, list):  # in the order of the parameters
            names = [key for key in self.tensors if not _BUFFERS.fullmatch(key)]
            if len(names) != len(shadows):
                raise ConversionError(
                    f"{len(shadows)} averaged tensors for {len(names)} parameters: damaged"
                )
            shadows = dict(zip(names, shadows, strict=True))
        averages = _plain(shadows)
        for key, tensor in averages.items():
            if key not in self.tensors or self.tensors[key].shape != tensor.shape:
                raise ConversionError(f"averaged {key} has no counterpart of its shape: damaged")
        return averages


def _plain(tensors: Any) -> dict[str, StoredTensor]:
    """The tensors without the prefix of `DataParallel`."""
    known = isinstance(tensors, dict) and all(
        isinstance(key, str) and isinstance(tensor, StoredTensor) for key, tensor in tensors.items()
    )
    if not known:
        raise ConversionError("the weights are not tensors with a name: damaged")
    longest = max(tensors, key=len, default="")
    if len(longest) > _LONGEST_NAME:
        raise ConversionError(f"a tensor has a name of {len(longest)} characters: damaged")
    found = {key.removeprefix("module."): tensor for key, tensor in tensors.items()}
    if len(found) < len(tensors):
        raise ConversionError("two tensors have one name, with 'module.' and without: damaged")
    return found


def _place(key: str) -> Place:
    match = _KEY.fullmatch(key)
    if match is None or (match["net"] is None and match["name"] not in _ACTNORM):
        raise ConversionError(
            f"{key} belongs to no implicit or residual block and to no ActNorm (batchnorm, "
            "quadratic, coupling?): not represented here"
        )
    scale, index, module = (int(match[name] or 0) for name in ("scale", "index", "place"))
    return Place(scale, index, match["net"] or "", module, match["name"], bool(match["flat"]), key)


def names_of(model: FlowModel, checkpoint: Checkpoint) -> dict[str, str]:
    """The key in the checkpoint for each key of the model's state that is copied.

    Arguments:
        model: what it is for; it needs no numbers.
        checkpoint: where the numbers are.

    Raises:
        ConversionError: if model and checkpoint have not the same tensors.
    """
    units = sorted({(place.scale, place.index) for place in checkpoint.places})
    parts = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, ActNorm | ResidualBlock)
    ]
    if len(units) != len(parts):
        raise ConversionError(
            f"the settings describe {len(parts)} blocks and ActNorms, the weights have "
            f"{len(units)}: correct nblocks, actnorm, imagesize or fc_end by --set"
        )
    paths, own = dict(zip(units, parts, strict=True)), model.state_dict()
    names: dict[str, str] = {}
    for place in checkpoint.places:
        path, part = paths[place.scale, place.index]
        name = f"{path}.{_name(part, place)}"
        if name in names:
            raise ConversionError(f"{names[name]} and {place.key} are for one tensor: damaged")
        if name in own:
            names[name] = place.key
        elif place.name != "scale":  # the last norm, which is computed anew
            raise ConversionError(
                f"{place.key} has no place where the settings describe {type(part).__name__}: "
                "correct act, vnorms, dims, kernels, preact, actnorm or fc_end by --set"
            )
    for key, tensor in own.items():
        _require_counterpart(key, tensor, names.get(key), checkpoint)
    return names


def _require_counterpart(key: str, own: Tensor, source: str | None, checkpoint: Checkpoint) -> None:
    if source is None:
        if not (key.endswith(("._scale", "._shift")) or re.search("_distr|permutation", key)):
            raise ConversionError(
                f"nothing in the checkpoint for {key}: correct act, vnorms or dims by --set"
            )
    elif checkpoint.tensors[source].shape != own.shape:
        raise ConversionError(
            f"{source} has shape {checkpoint.tensors[source].shape}, the settings describe "
            f"{tuple(own.shape)}: correct dims, idim, fc_idim, kernels, imagesize, vnorms or "
            "factor_out by --set"
        )


def _name(part: nn.Module, place: Place) -> str:
    """What a part of the model would call a tensor; there need be none of that name."""
    if not place.net:
        return _ACTNORM[place.name] if isinstance(part, ActNorm) else place.name
    net = getattr(part, _NETS[place.net], None)
    modules = [] if net is None or net.first is None else ["first"]
    for i in range(0 if net is None else len(net.layers)):
        modules += [f"layers.{i}", f"activations.{i}"]
    module = dict(enumerate(modules)).get(place.module, "nothing")
    return f"{_NETS[place.net]}.{module}.{place.name}"


def weights_of(
    model: FlowModel, checkpoint: Checkpoint, names: dict[str, str], *, averaged: bool
) -> dict[str, Tensor]:
    """The state of the model with the numbers that were saved.

    Arguments:
        model: what it is for; of its own state, what no checkpoint holds is kept.
        checkpoint: where the numbers are.
        names: the key in the checkpoint for each key of the state.
        averaged: take the averaged weights.

    Raises:
        ConversionError: if a number is not finite.
    """
    weights = model.state_dict()
    for key, source in names.items():
        own = weights[key]
        weights[key] = checkpoint.read(source, averaged=averaged).to(own.dtype)
        if not bool(weights[key].isfinite().all()):
            raise ConversionError(f"{source} holds NaN or infinity")
    return weights
