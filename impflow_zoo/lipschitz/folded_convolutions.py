"""Convolutions and elementwise functions with fast products and second derivatives.

For `h -> W_n f_n(... f_1(W_1 x + b_1) ...) + b_n` the product of a row `v` with the Jacobian is

    v^T J = v^T W_n D_n ... D_1 W_1,    D_i = diag(f_i'(h_i))

from the left to the right: the adjoint of a convolution is one with the kernel turned, and `D_i`
multiplies entries. So products are written down here, as functions of weights and slopes, and
autograd differentiates this expression once more where a gradient of products is needed. Asked for
the products themselves, torch would compute weight gradients with every one of them, from
transposed copies of each feature map; it splits SiLU into some seventeen passes, and computes
slopes anew for every product. Written down, a net takes half the time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv2d_weight

from impflow_zoo.lipschitz.activations import both_silu
from impflow_zoo.lipschitz.derivatives import DERIVATIVES, Elementwise
from impflow_zoo.lipschitz.folded_layers import FoldedLayers, Function, by_row, mixed
from impflow_zoo.numerics.folded import Pullback, pulled_back
from impflow_zoo.numerics.modes import grad_mode

__all__ = ["FoldedConvolutions"]


class FoldedConvolutions(FoldedLayers):
    """Convolutions whose products with the Jacobian are convolutions, too."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return self.trace(x)[0]
        if self.first is not None:
            function, before = self.first
            x = overwritten(function, before * x)
        for i, function in enumerate(self.functions):
            h = overwritten(function, self._affine(i, x))
            x = h if self.mixing is None else mixed(x, h, self.mixing[i])
        return self._affine(-1, x)

    def trace(self, x: Tensor) -> tuple[Tensor, Pullback]:
        steps: list[Pullback] = []  # `v -> v^T D_i` and `v -> v^T W_i`, from the input on
        if self.first is not None:
            function, before = self.first
            x, step = activated(function, before * x)
            steps += [lambda v: before * v, step]
        for i, function in enumerate(self.functions):
            h, step = activated(function, self._affine(i, x))
            if self.mixing is None:
                x, steps = h, [*steps, self._turned(i), step]
            else:
                x, steps = mixed(x, h, self.mixing[i]), [*steps, self._unmixed(i, x, step)]
        steps.append(self._turned(-1))

        def pullback(v: Tensor) -> Tensor:
            for step in reversed(steps):
                v = step(v)
            return v

        return self._affine(-1, x), pullback

    def _affine(self, i: int, x: Tensor) -> Tensor:
        weight, bias = self.weights[i], self.biases[i]
        if bias.dim() == 1:
            return convolution(x, weight, bias)
        return convolution(x, weight, None) + by_row(bias, x.dim())

    def _turned(self, i: int) -> Pullback:
        """`v -> v^T W_i`."""

        @functools.cache  # one kernel for all products
        def kernel() -> Tensor:
            with grad_mode(enabled=True):
                return _turn(self.weights[i])

        return lambda v: convolution(v, kernel(), None)

    def _unmixed(self, i: int, x: Tensor, step: Pullback) -> Pullback:
        """The pullback of `x -> [a x, b f(W x + b)]`."""
        assert self.mixing is not None
        (old, new), channels = self.mixing[i], x.shape[1]
        turned = self._turned(i)

        def pullback(v: Tensor) -> Tensor:
            first, second = v.split((channels, v.shape[1] - channels), dim=1)
            return old * first + turned(step(new * second))

        return pullback


def overwritten(function: Function, h: Tensor) -> Tensor:
    """A function of a fresh tensor, which may be overwritten."""
    if function is both_silu:
        function, h = functional.silu, torch.cat((h, -h), dim=1)
    return DERIVATIVES[function].overwrite(h) if function in DERIVATIVES else function(h)


def activated(function: Function, h: Tensor) -> tuple[Tensor, Pullback]:
    """`f(h)` and `v -> v^T D`, of any function."""
    if function is both_silu:
        value, inner = activated(functional.silu, torch.cat((h, -h), dim=1))

        def halves(v: Tensor) -> Tensor:
            plus, minus = inner(v).chunk(2, dim=1)
            return plus - minus

        return value, halves
    if function in DERIVATIVES:
        value, slope = _Sloped.apply(DERIVATIVES[function], h)
        return value, lambda v: v * slope
    value = function(h)
    return value, partial(pulled_back, function, h, value)


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`W x + b`, with a node of this file where gradients are recorded."""
    if torch.is_grad_enabled():
        value: Tensor = _Convolution.apply(x, weight, bias)
        return value
    return _convolve(x, weight, bias)


class _Convolution(torch.autograd.Function):
    """A convolution whose adjoint is one too, with turned kernels.

    The library's own backward pass on CPUs takes up to four times as long for few channels.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        grad_x = convolution(grad, _turn(weight), None) if wants_x else None
        grad_weight = _weight_gradient(grad, x, weight) if wants_weight else None
        return grad_x, grad_weight, grad.sum((0, 2, 3)) if wants_bias else None


def _turn(weight: Tensor) -> Tensor:
    """The kernel of the adjoint."""
    return weight.flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)


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
    """The gradient of `sum(grad * (W x))` by `W`: correlations of both maps, one for each tap."""
    out, inner, k, _ = weight.shape
    if not is_narrow(x, weight, out):
        return conv2d_weight(x, weight.shape, grad, padding=k // 2)
    taps = functional.unfold(grad, k, padding=k // 2) @ x.flatten(2).mT
    return taps.sum(0).view(out, k, k, inner).permute(0, 3, 1, 2).flip(2, 3)


class _Sloped(torch.autograd.Function):
    """`f(h)` and `f'(h)`: the slope is computed once, for all products with the Jacobian."""

    @staticmethod
    def forward(ctx: Any, f: Elementwise, h: Tensor) -> tuple[Tensor, Tensor]:
        slope, value = h.clone(), torch.empty_like(h)
        f.record(slope, value, torch.empty_like(h) if f.keeps else value)
        ctx.f = f
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(h, value, slope)
        return value, slope

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, grad_slope: Tensor | None
    ) -> tuple[None, Tensor | None]:
        f, (h, value, slope) = ctx.f, ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, _again(f.function, h, grad, grad_slope)
        total = None if grad is None else grad * slope
        if grad_slope is None:
            return None, total
        t = grad_slope if total is not None else grad_slope.clone()
        return None, f.bend(f.kept(h, value), slope, t, total)


def _again(
    f: Callable[[Tensor], Tensor], h: Tensor, grad: Tensor | None, grad_slope: Tensor | None
) -> Tensor | None:
    """`f'(h) grad + f''(h) grad_slope` by torch's derivatives, which have derivatives."""
    (slope,) = torch.autograd.grad(f(h).sum(), h, create_graph=True)
    total = None if grad is None else slope * grad
    if grad_slope is None:
        return total
    (curvature,) = torch.autograd.grad(slope.sum(), h, create_graph=True)
    bent = curvature * grad_slope
    return bent if total is None else total + bent
