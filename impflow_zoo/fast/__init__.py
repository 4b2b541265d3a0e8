"""Bound nets that are differentiated by hand.

This folder may be deleted: everything works without it, but more slowly. Only
`transforms/binding.py` imports it.
"""

from __future__ import annotations

import torch

from impflow_zoo.fast.convolution import FastConvolutions
from impflow_zoo.fast.elementwise import DERIVATIVES
from impflow_zoo.fast.perceptron import FastPerceptron
from impflow_zoo.lipschitz.bound_layers import BoundLayers
from impflow_zoo.numerics.bound import BoundNet

__all__ = ["faster"]


def faster(net: BoundNet) -> BoundNet:
    """The fast form of a net, or the net itself if it has none or autocast is on."""
    if type(net) is not BoundLayers or torch.is_autocast_enabled(net.weights[0].device.type):
        return net
    if net.weights[0].dim() == 4:
        parts = net.shape, net.functions, net.weights, net.biases, net.first, net.mixing
        return FastConvolutions(*parts)
    functions, weights, biases = [*net.functions], [*net.weights], [*net.biases]
    if net.first is not None:  # becomes a layer
        function, before = net.first
        like, size = weights[0], weights[0].shape[1]
        scale = torch.as_tensor(before, dtype=like.dtype, device=like.device)
        functions.insert(0, function)
        weights.insert(0, scale.expand(size).diag())
        biases.insert(0, like.new_zeros(size))
    same = any({*functions} == {f} for f in DERIVATIVES)
    return FastPerceptron(net.shape, functions, weights, biases) if same else net
