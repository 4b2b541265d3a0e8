"""From the tensors of a checkpoint to those of the model that its settings describe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from nflows.transforms import ActNorm
from torch import Tensor, nn

from conversion.errors import ConversionError
from conversion.reference import Layer, Net, Reference, Unit
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.published.nets import PublishedConvNet, PublishedMLP
from impflow_zoo.transforms.base import ResidualBlock

__all__ = ["Mapping", "mapped"]

_NETS = {"nnet": "net", "nnet_x": "net_x", "nnet_z": "net_z"}
_IGNORED = {"initialized", "spatial_dims", "domain", "codomain"}


@dataclass
class Mapping:
    """Where the tensors of a model come from.

    Arguments:
        units: path of each ActNorm and block of the model, by that of the checkpoint.
        tensors: key of the checkpoint for each key of the model that is copied.
    """

    units: dict[str, str] = field(default_factory=dict)
    tensors: dict[str, str] = field(default_factory=dict)


def mapped(
    model: FlowModel, reference: Reference, *, averaged: bool
) -> tuple[dict[str, Tensor], Mapping]:
    """The weights of the model, as they were saved, and where they come from.

    Arguments:
        model: a model of the checkpoint's config; its own weights play no role, but for the
            standardisation that starts a model of vectors, which is kept.
        reference: the checkpoint.
        averaged: take the averaged weights.

    Raises:
        ConversionError: if model and checkpoint have not the same layers and shapes.
    """
    copier = _Copier(reference, averaged=averaged)
    ours = list(_parts(model))
    if len(ours) != len(reference.units):
        raise ConversionError(
            f"the settings describe {len(ours)} blocks and ActNorms, the weights have "
            f"{len(reference.units)}: correct nblocks, actnorm, imagesize or fc_end by --set"
        )
    for (path, part), unit in zip(ours, reference.units, strict=True):
        copier.unit(path, part, unit)
    weights = {k: v for k, v in model.state_dict().items() if _is_start(k)}
    weights.update(copier.weights)
    own = model.state_dict()
    missing = sorted(own.keys() - weights.keys())
    if missing:
        raise ConversionError(f"nothing in the checkpoint for {missing[0]}: correct act or vnorms")
    for key, tensor in weights.items():
        if key not in own:
            source = copier.mapping.tensors[key]
            raise ConversionError(f"{source} has no place: correct act or vnorms by --set")
        if tensor.shape != own[key].shape:
            raise ConversionError(
                f"{copier.mapping.tensors.get(key, key)} has shape {tuple(tensor.shape)}, the "
                f"settings describe {tuple(own[key].shape)}: correct dims, idim, fc_idim, kernels, "
                "imagesize, vnorms or factor_out by --set"
            )
        if not bool(tensor.isfinite().all()):
            raise ConversionError(f"{copier.mapping.tensors.get(key, key)} holds NaN or infinity")
    return weights, copier.mapping


def _parts(model: FlowModel) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if isinstance(module, ActNorm | ResidualBlock):
            yield name, module


def _is_start(key: str) -> bool:
    return key.endswith(("._scale", "._shift")) or "_distribution" in key or "permutation" in key


class _Copier:
    def __init__(self, reference: Reference, *, averaged: bool) -> None:
        self.reference, self.averaged = reference, averaged
        self.weights: dict[str, Tensor] = {}
        self.mapping = Mapping()

    def unit(self, path: str, part: nn.Module, unit: Unit) -> None:
        """Copy one ActNorm or block."""
        prefix = f"transforms.{unit.scale}." if self.reference.images else ""
        self.mapping.units[f"{prefix}chain.{unit.index}"] = path
        if isinstance(part, ResidualBlock) != bool(unit.nets):
            kinds = ("an ActNorm", "a block")
            raise ConversionError(
                f"chain.{unit.index} is {kinds[bool(unit.nets)]} where the settings describe "
                f"{kinds[not unit.nets]}: correct nblocks, actnorm or fc_end by --set"
            )
        if not unit.nets:
            self._actnorm(path, unit)
            return
        for name, net in unit.nets.items():
            own = getattr(part, _NETS[name], None)
            if own is None:
                raise ConversionError(f"chain.{unit.index}: implicit and residual blocks are mixed")
            self._net(f"{path}.{_NETS[name]}", own, net)

    def _actnorm(self, path: str, unit: Unit) -> None:
        for name, own in (("weight", "log_scale"), ("bias", "shift")):
            self._put(f"{path}.{own}", unit.actnorm[name], self._read(unit.actnorm[name]))
        flag = unit.actnorm["initialized"]
        self._put(f"{path}.initialized", flag, self._read(flag).bool())

    def _net(self, path: str, own: PublishedMLP | PublishedConvNet, net: Net) -> None:
        ours = [f"activations.{i}" for i in range(len(own.activations))]
        if own.first is not None:
            ours.insert(0, "first")
        layers, first = net.layers, net.layers[0].index if net.layers else -1
        if len(layers) != len(own.layers) or (first > 0) != (own.first is not None):
            raise ConversionError(
                f"{path}: {len(layers)} layers, the first at place {first}, where the settings "
                f"describe {len(own.layers)}: correct dims, kernels or preact by --set"
            )
        for i, layer in enumerate(layers):
            self._layer(f"{path}.layers.{i}", layer)
        if net.activations and len(net.activations) != len(ours):
            raise ConversionError(f"{path}: {len(net.activations)} activations with weights")
        for name, activation in zip(ours, net.activations, strict=False):
            for tensor, key in activation.keys.items():
                self._put(f"{path}.{name}.{tensor}", key, self._read(key))

    def _layer(self, path: str, layer: Layer) -> None:
        keys = layer.keys
        for name, key in keys.items():
            if name == "scale":
                if "u" in keys:
                    self._put(f"{path}.sigma", key, self._read(key))
            elif name not in _IGNORED:
                self._put(f"{path}.{name}", key, self._read(key))
        if "domain" in keys:
            orders = [_order(self._read(keys[name]).double()) for name in ("domain", "codomain")]
            self._put(f"{path}.orders", keys["domain"], torch.stack(orders).flatten().float())

    def _read(self, key: str) -> Tensor:
        return self.reference.read(key, averaged=self.averaged)

    def _put(self, key: str, source: str, tensor: Tensor) -> None:
        self.weights[key] = tensor
        self.mapping.tensors[key] = source


def _order(raw: Tensor) -> Tensor:
    """The learned order of a norm, between 1 and 5, from its parameter.

    `asym_squash` of the public code of both papers (`lib/layers/base/mixed_lipschitz.py`).
    """
    elu: Callable[[Tensor], Tensor] = nn.functional.elu
    shifted = 0.5493061829986572 - raw
    return torch.tanh(-(0.3 * shifted + 0.7 * elu(shifted))) * 2 + 3
