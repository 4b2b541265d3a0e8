"""Convolution and SiLU with second derivatives that cost what they should.

The gradient of a log-determinant differentiates a vector-Jacobian product once more. torch's own
formulas for that take weight gradients of convolutions through transposed copies of every feature
map, and SiLU apart into some seventeen passes; these take half the time on the whole net. Under
`torch.vmap` they raise: the rules that torch generates for such functions lose part of the second
derivatives.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from impflow_zoo.lipschitz.narrow import convolve_narrow, is_narrow, narrow_weight_gradient
from impflow_zoo.numerics.graph import inputs_only

__all__ = ["adjoint", "convolve", "silu"]


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """`torch.nn.functional.conv2d` with stride 1.

    Arguments:
        x: images with shape `[B, in, H, W]`.
        weight: kernels with shape `[out, in, k, k]`.
        bias: one number per output channel, or None.
        padding: zeros on each side.
    """
    return _Convolution.apply(x, weight, bias, padding)


def adjoint(y: Tensor, weight: Tensor, like: Tensor, padding: int) -> Tensor:
    """The adjoint of `convolve` in its images, not differentiable.

    `torch.nn.functional.conv_transpose2d` is the same, in up to eight times the time.

    Arguments:
        y: images with shape `[B, out, H, W]`.
        weight: kernels with shape `[out, in, k, k]`.
        like: images whose shape and memory format the result has, `[B, in, H, W]`.
        padding: zeros on each side.
    """
    return _backward(y, like, weight, padding, [True, False, False])[0]


def silu(x: Tensor) -> Tensor:
    """`x sigmoid(x)`; on anything but images torch's own, which can be batched by vmap."""
    return _Silu.apply(x) if x.dim() == 4 else functional.silu(x)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        return _plain(x, weight, bias, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, ctx.padding = inputs
        ctx.save_for_backward(x, weight)
        ctx.save_for_forward(x, weight)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return None, None, None, None
        x, weight = ctx.saved_tensors
        grad_x, grad_weight, grad_bias = None, None, None
        if ctx.needs_input_grad[0]:
            grad_x = _ConvolutionAdjoint.apply(grad, weight, x.detach(), ctx.padding)
        if (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]) and not inputs_only():
            if ctx.needs_input_grad[1]:
                grad_weight = _weight_gradient(grad, x, weight, ctx.padding)
            if ctx.needs_input_grad[2]:
                grad_bias = grad.sum((0, 2, 3))
        return grad_x, grad_weight, grad_bias, None

    @staticmethod
    def jvp(ctx: Any, x: Tensor | None, weight: Tensor | None, bias: Tensor | None, _: None) -> Any:
        at_x, at_weight = ctx.saved_tensors
        tangent = None
        if x is not None:
            tangent = convolve(x, at_weight, None, ctx.padding)
        if weight is not None:
            part = convolve(at_x, weight, None, ctx.padding)
            tangent = part if tangent is None else tangent + part
        if bias is not None:
            part = bias[:, None, None]
            tangent = part if tangent is None else tangent + part
        return tangent


class _ConvolutionAdjoint(torch.autograd.Function):
    """The adjoint of the convolution in its images: from `[B, out, H, W]` to `[B, in, H, W]`.

    torch asks for images to take shape and memory format from: `like`.
    """

    @staticmethod
    def forward(y: Tensor, weight: Tensor, like: Tensor, padding: int) -> Tensor:
        if is_narrow(y, weight.shape[1], weight.shape[-1], padding):
            return convolve_narrow(y, weight.flip(2, 3).transpose(0, 1))
        return adjoint(y, weight, like, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        y, weight, like, ctx.padding = inputs
        ctx.save_for_backward(y, weight)
        ctx.save_for_forward(y, weight, like)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, weight = ctx.saved_tensors
        grad_y, grad_weight = None, None
        if ctx.needs_input_grad[0]:
            grad_y = convolve(grad, weight, None, ctx.padding)
        if ctx.needs_input_grad[1] and not inputs_only():
            grad_weight = _weight_gradient(y, grad, weight, ctx.padding)
        return grad_y, grad_weight, None, None

    @staticmethod
    def jvp(ctx: Any, y: Tensor, weight: Tensor, *_: None) -> Tensor:
        at_y, at_weight, like = ctx.saved_tensors
        first = _ConvolutionAdjoint.apply(y, at_weight, like, ctx.padding)
        return first + _ConvolutionAdjoint.apply(at_y, weight, like, ctx.padding)


def _plain(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    if not is_narrow(x, weight.shape[0], weight.shape[-1], padding):
        return functional.conv2d(x, weight, bias, padding=padding)
    value = convolve_narrow(x, weight)
    return value if bias is None else value.add_(bias[:, None, None])


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


class _Silu(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return functional.silu(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _SiluSlope.apply(grad, *ctx.saved_tensors)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return _SiluSlope.apply(tangent, *ctx.saved_tensors)


class _SiluSlope(torch.autograd.Function):
    """`t silu'(x)`."""

    @staticmethod
    def forward(t: Tensor, x: Tensor) -> Tensor:
        return torch.ops.aten.silu_backward(t, x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        t, x = ctx.saved_tensors
        grad_t, grad_x = None, None
        if ctx.needs_input_grad[0]:
            grad_t = _SiluSlope.apply(grad, x)
        if ctx.needs_input_grad[1]:
            grad_x = _curvature(grad * t, x)
        return grad_t, grad_x

    @staticmethod
    def jvp(ctx: Any, t: Tensor, x: Tensor) -> Tensor:
        at_t, at_x = ctx.saved_tensors
        return _SiluSlope.apply(t, at_x) + _curvature(at_t * x, at_x)


def _curvature(t: Tensor, x: Tensor) -> Tensor:
    """`t silu''(x)`, with `silu'' = s (1 - s) (2 + x - 2 x s)` for the sigmoid `s` of `x`."""
    s = torch.sigmoid(x)
    return torch.ops.aten.sigmoid_backward(t, s) * torch.addcmul(x + 2, x, s, value=-2)
