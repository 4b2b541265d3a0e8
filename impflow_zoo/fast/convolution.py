"""Convolutions and SiLU whose second derivatives cost what they should.

The gradient of a log-determinant differentiates a vector-Jacobian product once more. torch's own
formulas for that take weight gradients of convolutions through transposed copies of every feature
map, and SiLU apart into some seventeen passes; these take half the time on the whole net.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from impflow_zoo.fast.narrow import convolve_narrow, is_narrow, narrow_weight_gradient
from impflow_zoo.lipschitz.activations import both_silu
from impflow_zoo.lipschitz.bound_layers import BoundLayers


class Wanted:
    """What the backward pass that runs now asks of one net.

    Operations written in Python are not told which of their gradients will be used, as torch's
    own are. Those of a net look here, and save the work for weights in every product with a
    Jacobian.
    """

    weights = True


class FastConvolutions(BoundLayers):
    """Convolutions by the functions of this file."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.wanted = Wanted()

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding = weight.shape[-1] // 2
        if torch.is_grad_enabled():
            found: Tensor = _Convolution.apply(x, weight, bias, padding, self.wanted)
            return found
        return _convolve(x, weight, bias, padding)

    def apply(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return function(x)
        if function is both_silu:
            return _Silu.apply(torch.cat((x, -x), dim=1))
        return _Silu.apply(x) if function is functional.silu else function(x)

    @contextmanager
    def products_only(self) -> Iterator[None]:
        self.wanted.weights = False
        try:
            yield
        finally:
            self.wanted.weights = True


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, padding: int, wanted: Wanted
    ) -> Tensor:
        ctx.padding, ctx.wanted = padding, wanted
        ctx.save_for_backward(x, weight)
        ctx.set_materialize_grads(False)
        return _convolve(x, weight, bias, padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return None, None, None, None, None
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, *_ = ctx.needs_input_grad
        grad_x = grad_weight = grad_bias = None
        if wants_x:
            grad_x = _adjoint(grad, weight, x.detach(), ctx.padding, ctx.wanted)
        if wants_weight and ctx.wanted.weights:
            grad_weight = _weight_gradient(grad, x, weight, ctx.padding)
        if wants_bias and ctx.wanted.weights:
            grad_bias = grad.sum((0, 2, 3))
        return grad_x, grad_weight, grad_bias, None, None


class _Adjoint(torch.autograd.Function):
    """The adjoint of the convolution in its images: from `[B, out, H, W]` to `[B, in, H, W]`.

    torch asks for images to take shape and memory format from: `like`.
    """

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, weight: Tensor, like: Tensor, padding: int, wanted: Wanted
    ) -> Tensor:
        ctx.padding, ctx.wanted = padding, wanted
        ctx.save_for_backward(y, weight)
        return _convolve_back(y, weight, like, padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, weight = ctx.saved_tensors
        grad_y = grad_weight = None
        if ctx.needs_input_grad[0]:
            if torch.is_grad_enabled():
                grad_y = _Convolution.apply(grad, weight, None, ctx.padding, ctx.wanted)
            else:
                grad_y = _convolve(grad, weight, None, ctx.padding)
        if ctx.needs_input_grad[1] and ctx.wanted.weights:
            grad_weight = _weight_gradient(y, grad, weight, ctx.padding)
        return grad_y, grad_weight, None, None, None


class _Silu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return functional.silu(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _slope(grad, *ctx.saved_tensors)


class _Slope(torch.autograd.Function):
    """`t silu'(x)`."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(t, x)
        return torch.ops.aten.silu_backward(t, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        t, x = ctx.saved_tensors
        wants_t, wants_x = ctx.needs_input_grad
        return (
            _slope(grad, x) if wants_t else None,
            _curvature(grad, t, x) if wants_x else None,
        )


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    if not is_narrow(x, weight.shape[0], weight.shape[-1], padding):
        return functional.conv2d(x, weight, bias, padding=padding)
    value = convolve_narrow(x, weight)
    return value if bias is None else value.add_(bias[:, None, None])


def _adjoint(y: Tensor, weight: Tensor, like: Tensor, padding: int, wanted: Wanted) -> Tensor:
    """`_Adjoint`, with a node where gradients are recorded."""
    if not torch.is_grad_enabled():
        return _convolve_back(y, weight, like, padding)
    return _Adjoint.apply(y, weight, like, padding, wanted)


def _convolve_back(y: Tensor, weight: Tensor, like: Tensor, padding: int) -> Tensor:
    if is_narrow(y, weight.shape[1], weight.shape[-1], padding):
        return convolve_narrow(y, weight.flip(2, 3).transpose(0, 1))
    return _backward(y, like, weight, padding, [True, False, False])[0]


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, padding: int) -> Tensor:
    if is_narrow(x, grad.shape[1], weight.shape[-1], padding):
        return narrow_weight_gradient(grad, x, weight.shape[-1])
    return _backward(grad, x, weight, padding, [False, True, False])[1]


def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, padding: int, mask: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of images, weight and bias, those that the mask asks for."""
    out, transposed = [weight.shape[0]], False
    return torch.ops.aten.convolution_backward(
        grad, x, weight, out, [1, 1], [padding] * 2, [1, 1], transposed, [0, 0], 1, mask
    )


def _slope(t: Tensor, x: Tensor) -> Tensor:
    """`_Slope`, with a node where gradients are recorded."""
    if not torch.is_grad_enabled():
        return torch.ops.aten.silu_backward(t, x)
    return _Slope.apply(t, x)


def _curvature(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """`a b silu''(x)`, with `silu'' = s (1 - s) (2 + x - 2 x s)` for the sigmoid `s` of `x`."""
    s = torch.sigmoid(x)
    return torch.ops.aten.sigmoid_backward(a * b, s) * torch.addcmul(x + 2, x, s, value=-2)
