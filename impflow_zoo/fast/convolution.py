"""Convolutions and elementwise functions with fast products and second derivatives.

The gradient of a log-determinant differentiates a vector-Jacobian product once more. torch's own
formulas compute weight gradients of convolutions from transposed copies of every feature map, split
SiLU into some seventeen passes, and compute slopes again for every product. The functions here
halve the time of the whole net.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv2d_weight

from impflow_zoo.fast.elementwise import DERIVATIVES, Sine
from impflow_zoo.lipschitz.activations import both_silu
from impflow_zoo.lipschitz.bound_layers import BoundLayers


class FastConvolutions(BoundLayers):
    """Convolutions by the functions of this file."""

    # Operations written in Python are not told which of their gradients will be used, as torch's
    # own are. They look here, and save the work for weights in every product with a Jacobian.
    wants_weights = True

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _apply(self, x, weight, bias)

    def apply(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if function is both_silu:
            function, x = functional.silu, torch.cat((x, -x), dim=1)
        if (f := DERIVATIVES.get(function)) is None:
            return function(x)
        return _Elementwise.apply(f, x) if torch.is_grad_enabled() else f.overwrite(x)

    @contextmanager
    def products_only(self) -> Iterator[None]:
        self.wants_weights = False
        try:
            yield
        finally:
            self.wants_weights = True


def _apply(net: FastConvolutions, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution, with a node where gradients are recorded."""
    if torch.is_grad_enabled():
        found: Tensor = _Convolution.apply(net, x, weight, bias)
        return found
    return _convolve(x, weight, bias)


class _Convolution(torch.autograd.Function):
    """A convolution whose adjoint is one too, with turned kernels.

    The library's own backward pass on CPUs takes up to four times as long for few channels.
    """

    @staticmethod
    def forward(ctx: Any, net: FastConvolutions, *given: Any) -> Tensor:
        ctx.net = net
        ctx.save_for_backward(*given[:2])
        return _convolve(*given)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        _, wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        grad_x = grad_weight = grad_bias = None
        if wants_x:
            turned = weight.flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)
            grad_x = _apply(ctx.net, grad, turned, None)
        if wants_weight and ctx.net.wants_weights:
            grad_weight = _weight_gradient(grad, x, weight)
        if wants_bias and ctx.net.wants_weights:
            grad_bias = grad.sum((0, 2, 3))
        return None, grad_x, grad_weight, grad_bias


def is_narrow(x: Tensor, weight: Tensor, channels: int) -> bool:
    """Whether one matrix product for all positions of the kernel is faster than the library.

    Libraries compute output channels in groups of 16, most of which would be padding here.
    """
    return channels <= 6 and weight.shape[-1] > 1 and x.device.type == "cpu"


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out, inner, k, _ = weight.shape
    if not is_narrow(x, weight, out):
        return functional.conv2d(x, weight, bias, padding=k // 2)
    height, width = x.shape[2:]
    taps = weight.permute(2, 3, 0, 1).reshape(-1, inner)
    parts = (taps @ x.flatten(2)).view(-1, k * k, out, height, width)
    value = parts.new_zeros(len(x), out, height + k - 1, width + k - 1)
    for i, part in enumerate(parts.unbind(1)):
        row, column = k - 1 - i // k, k - 1 - i % k
        value[:, :, row : row + height, column : column + width] += part
    value = value[:, :, k // 2 :, k // 2 :][:, :, :height, :width].contiguous()
    return value if bias is None else value.add_(bias[:, None, None])


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    out, inner, k, _ = weight.shape
    if not is_narrow(x, weight, out):
        return conv2d_weight(x, weight.shape, grad, padding=k // 2)
    taps = functional.unfold(grad, k, padding=k // 2) @ x.flatten(2).mT
    return taps.sum(0).view(out, k, k, inner).permute(0, 3, 1, 2).flip(2, 3)


class _Elementwise(torch.autograd.Function):
    """`f(x)`; its slope is computed once, for all products with the Jacobian."""

    @staticmethod
    def forward(ctx: Any, f: Sine, x: Tensor) -> Tensor:
        slope, value = x.clone(), torch.empty_like(x)
        f.record(slope, value, torch.empty_like(x) if f.keeps else value)
        ctx.f = f
        ctx.save_for_backward(x, value, slope)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, _Sloped.apply(ctx.f, grad, *ctx.saved_tensors)


class _Sloped(torch.autograd.Function):
    """`t f'(x)`."""

    @staticmethod
    def forward(ctx: Any, f: Sine, t: Tensor, x: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.f = f
        ctx.save_for_backward(t, x, value, slope)
        return t * slope

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        t, *known = ctx.saved_tensors
        _, wants_t, wants_x, *_ = ctx.needs_input_grad
        by_t = _Sloped.apply(ctx.f, grad, *known) if wants_t else None
        by_x = _curved(ctx.f, grad * t, *known) if wants_x else None
        return None, by_t, by_x, None, None


def _curved(f: Sine, t: Tensor, x: Tensor, value: Tensor, slope: Tensor) -> Tensor:
    """`t f''(x)`; where gradients are recorded, by torch's derivatives."""
    if not torch.is_grad_enabled():
        return f.bend(f.kept(x, value), slope, t, None)
    (slope,) = torch.autograd.grad(f.function(x).sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
    return t * curvature
