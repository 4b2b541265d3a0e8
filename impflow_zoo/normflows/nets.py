"""Nets of normflows as nets of ours: the same function, and a bound that keeps itself."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import normflows as nf
import torch
from torch import Tensor, nn

from impflow_zoo.lipschitz.activations import LipSwish
from impflow_zoo.lipschitz.convolutions import LipschitzConv2d
from impflow_zoo.lipschitz.image_networks import LipschitzConvNet
from impflow_zoo.lipschitz.norms import LipschitzLinear
from impflow_zoo.lipschitz.published_nets import PublishedMLP

__all__ = ["adopt"]

_ROUNDING = 1e-6  # how far above their coefficient norms of float32 weights may come out


@torch.no_grad()
def adopt(net: nn.Module) -> nn.Module:
    """A net of ours with the function of a `LipschitzMLP` or `LipschitzCNN` of normflows.

    Any other net, and a `LipschitzCNN` that has not seen its first image, is copied as it is.

    Raises:
        ValueError: if the norms of the layers do not keep the net a contraction.
    """
    if isinstance(net, nf.nets.LipschitzMLP):
        return _mlp(net)
    if isinstance(net, nf.nets.LipschitzCNN) and all(bool(c.initialized) for c in net.net[1::2]):
        return _cnn(net)
    return copy.deepcopy(net)


def _mlp(net: nf.nets.LipschitzMLP) -> PublishedMLP:
    theirs = net.net[1::2]
    layers = [LipschitzLinear(t.in_features, t.out_features) for t in theirs]
    bound = _fill(layers, theirs)
    own = PublishedMLP(net.channels[0], net.channels[1:-1], "lipswish", bound, preactivation=True)
    own.layers = nn.ModuleList(layers)
    _finish(own, net)
    return own


def _cnn(net: nf.nets.LipschitzCNN) -> LipschitzConvNet:
    theirs = net.net[1::2]
    height, width = (int(n) for n in theirs[0].spatial_dims)
    layers = [
        LipschitzConv2d(t.in_channels, t.out_channels, t.kernel_size[0], (height, width))
        for t in theirs
    ]
    bound = _fill(layers, theirs)
    own = LipschitzConvNet(
        net.channels[0],
        (height, width),
        kernels=net.kernel_size,
        activation="lipswish",
        preactivation=True,
        lipschitz=bound,
    )
    own.layers = nn.ModuleList(layers)
    _finish(own, net)
    return own


def _fill(layers: Sequence[LipschitzLinear | LipschitzConv2d], theirs: Sequence[Any]) -> float:
    """Give layers the weights that theirs have in use; the product of their coefficients."""
    norms, allowed = [], []
    for layer, other in zip(layers, theirs, strict=True):
        weight: Tensor = other.compute_weight(update=False)
        if not bool(weight.isfinite().all()):
            raise ValueError("the normflows net holds NaN or infinity in its weights")
        layer.to(weight.device, weight.dtype)
        layer.weight.copy_(weight)
        layer.bias.copy_(other.bias)
        layer.settle()
        norms.append(float(layer.attained()) * (1 + _ROUNDING))
        allowed.append(float(other.coeff))
        # Where its own power iteration has not converged, the norm is above the coefficient.
        layer.coefficient = max(norms[-1], allowed[-1])
    bound = math.prod(layer.coefficient for layer in layers)
    if bound >= 1:
        raise ValueError(
            f"the normflows net has Lipschitz constants up to {math.prod(norms):.4g} (allowed: "
            f"{math.prod(allowed):.4g}), a contraction needs less than 1: run "
            "normflows.utils.update_lipschitz(model, 200) and convert it again"
        )
    return bound


def _finish(own: PublishedMLP | LipschitzConvNet, net: Any) -> None:
    """Take the type, the device and the mode of the net, and the slopes of its activations."""
    like = net.net[1].weight
    own.to(like.device, like.dtype).train(net.training)
    for activation, swish in zip([own.first, *own.activations], net.net[::2], strict=True):
        assert isinstance(activation, LipSwish)
        activation.beta.copy_(swish.beta)
