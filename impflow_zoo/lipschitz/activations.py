"""Activations with Lipschitz constant 1.

Elementwise activations have `|f'| <= 1`. CLipSwish and CPila return twice as many features as they
take, MaxMin sorts pairs of features: the 2-norm of their Jacobians is at most 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "ACTIVATIONS",
    "LipSwish",
    "both_silu",
    "expansion",
    "half_sine",
    "make_activation",
    "watched",
]


class Scaled(nn.Module):
    """An activation of the form `after * function(before * x)` with scalars before and after.

    A net multiplies the scalars into the adjacent layers, which saves two passes over every feature
    map.
    """

    function: ClassVar[Any]  # of one tensor
    slopes: ClassVar[tuple[float, float] | None] = None  # of the function, if it is elementwise
    constants: ClassVar[tuple[float, float]]

    def scales(self) -> tuple[Tensor | float, Tensor | float]:
        """The scalars before and after."""
        return self.constants

    def forward(self, x: Tensor) -> Tensor:
        before, after = self.scales()
        return type(self).function(before * x) * after


class Sin(Scaled):
    """`sin(2 pi x) / (2 pi)` (Lu et al., 2021)."""

    function = torch.sin
    slopes = (-1.0, 1.0)
    constants = (2 * math.pi, 1 / (2 * math.pi))


def half_sine(x: Tensor) -> Tensor:
    """`x + sin(x)`."""
    return x + torch.sin(x)


class HalfSin(Scaled):
    """`x / 2 + sin(2 pi x) / (4 pi)`: the mean of `Sin` and the identity, monotone."""

    function = half_sine
    slopes = (0.0, 2.0)
    constants = (2 * math.pi, 1 / (4 * math.pi))


class LipSwish(Scaled):
    """`x sigmoid(b x) / 1.1` with a learned `b = softplus(beta)` (Chen et al., 2019).

    The slope of `x sigmoid(b x)` lies between -0.0999 and 1.0999.
    """

    function: ClassVar[Any] = functional.silu
    slope: ClassVar[float] = 1.1
    slopes: ClassVar[tuple[float, float] | None] = (-0.0999, 1.0999)

    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.tensor([0.5]))

    def scales(self) -> tuple[Tensor, Tensor]:
        # Below this bound the function is x / 2 to four digits, and 1 / b^2 overflows.
        b = functional.softplus(self.beta).clamp(min=1e-4)
        return b, (self.slope * b).reciprocal()


def both_silu(x: Tensor) -> Tensor:
    """`[silu(x), silu(-x)]`, joined in the channel dimension."""
    return functional.silu(torch.cat((x, -x), dim=1))


class CLipSwish(LipSwish):
    """`[LipSwish(x), LipSwish(-x)] / 1.004`, joined in the channel dimension.

    The slopes of the two halves are `s` and `1 - s`, with `s <= 1.0998`: without the 1.1 within
    LipSwish the constant would be 1.1.

    References:
        Invertible DenseNets with Concatenated LipSwish (Perugachi-Diaz et al., 2021)
        https://arxiv.org/abs/2102.02694
    """

    expansion = 2
    function = both_silu
    slopes = None
    slope = 1.1 * 1.004


class ShiftedLipSwish(nn.Module):
    """`(f(x) + a x) / (1 + a)`, with `f` the `LipSwish` and `-a` below its smallest slope."""

    slopes: ClassVar[tuple[float, float]] = (0.0, 1.0)
    deepest: ClassVar[float] = 0.091  # the slope of `x sigmoid(b x) / 1.1` is above -0.0998 / 1.1

    def __init__(self) -> None:
        super().__init__()
        self.shifted = LipSwish()

    def forward(self, x: Tensor) -> Tensor:
        return (self.shifted(x) + self.deepest * x) / (1 + self.deepest)


class CPila(nn.Module):
    """`[Pila(x - 0.2), Pila(-x - 0.2)] / 1.06`, joined in the channel dimension.

    `Pila(x)` is `x` above zero and `(k^2 x^3 / 2 - k x^2 + x) exp(k x)` below, with `k = 5`.

    References:
        Invertible Monotone Operators for Normalizing Flows (Ahn et al., 2022)
        https://arxiv.org/abs/2210.08176
    """

    expansion = 2

    def forward(self, x: Tensor) -> Tensor:
        k, x = 5.0, torch.cat((x, -x), dim=1) - 0.2
        # Clamped, powers, exp and gradients of the branch not taken are finite; not so in float16.
        # At the lower end `exp(5 x)` is zero in float64.
        below = x.to(torch.promote_types(x.dtype, torch.float32)).clamp(-200, 0)
        value = ((k**2 / 2 * below - k) * below + 1) * below * torch.exp(k * below)
        return torch.where(x >= 0, x, value.to(x.dtype)) / 1.06


class MaxMin(nn.Module):
    """Sort pairs of channels; the number of channels must be even.

    References:
        Sorting out Lipschitz function approximation (Anil et al., 2019)
        https://arxiv.org/abs/1811.05381
    """

    pairs: ClassVar[bool] = True

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] % 2:
            raise ValueError(f"maxmin needs an even number of channels, not {x.shape[1]}")
        a, b = x.chunk(2, dim=1)
        return torch.cat((torch.maximum(a, b), torch.minimum(a, b)), dim=1)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "sin": Sin,
    "halfsin": HalfSin,
    "lipswish": LipSwish,
    "shifted-lipswish": ShiftedLipSwish,
    "elu": nn.ELU,
    "relu": nn.ReLU,
    "softplus": partial(nn.Softplus, threshold=40),  # at 20 it makes a step of 2e-9
    "tanh": nn.Tanh,
    "clipswish": CLipSwish,
    "cpila": CPila,
    "maxmin": MaxMin,
}


# Where a module keeps its hooks; those of `state_dict` do not take part in calls.
_HOOKS = [name for name in vars(nn.Module()) if name.endswith("hooks") and "state_dict" not in name]


def watched(module: nn.Module) -> bool:
    """Whether a module has hooks, or a method that somebody replaced on it."""
    own = vars(module)
    return any(map(own.get, _HOOKS)) or "forward" in own or "scales" in own


def scaled_function(
    activation: nn.Module,
) -> tuple[Callable[[Tensor], Tensor], Tensor | float, Tensor | float]:
    """An activation as a function, a scalar before and a scalar after it.

    An activation with hooks, or with its own `forward`, is the function itself: both have to run.
    """
    if isinstance(activation, Scaled) and not watched(activation):
        kind = type(activation)
        if kind.forward is Scaled.forward:
            return kind.function, *activation.scales()
    return activation, 1.0, 1.0


def contracts(activation: nn.Module) -> bool:
    """Whether the constant of an activation is known to be at most 1.

    Those of `ACTIVATIONS` have such a constant; other classes have to state slopes in [-1, 1].
    """
    ours = {type(make()) for make in ACTIVATIONS.values()} - {nn.ELU, nn.Softplus}
    low, high = (0.0, 1.0) if type(activation) in ours else slopes(activation) or (0.0, math.inf)
    return not watched(activation) and max(-low, high) <= 1


def expansion(activation: nn.Module | None) -> int:
    """How many times the features an activation returns."""
    return int(getattr(activation, "expansion", 1))


def make_activation(kind: str | type[nn.Module], features: int | None = None) -> nn.Module:
    """Make an activation from a name in `ACTIVATIONS` or a class.

    Raises:
        ValueError: if the name is unknown, or if the activation pairs features and their number
            is odd.
    """
    constructor = kind if isinstance(kind, type) else ACTIVATIONS.get(kind)
    if constructor is None:
        raise ValueError(f"unknown activation {kind!r}: choose {', '.join(ACTIVATIONS)}")
    if features is not None and features % 2 and getattr(constructor, "pairs", False):
        name = getattr(kind, "__name__", kind)
        raise ValueError(f"activation {name!r} needs an even number of features, not {features}")
    return constructor()


def slopes(activation: nn.Module) -> tuple[float, float] | None:
    """The smallest and the largest slope of an elementwise activation, or None if not known.

    Of a `Scaled` one they are the slopes of its function. A sub-class has to say so itself.
    """
    if type(activation) in (nn.ELU, nn.Softplus, nn.Tanh, nn.ReLU):
        alpha = float(getattr(activation, "alpha", 1.0))
        valid = getattr(activation, "beta", 1) > 0 and getattr(activation, "threshold", 40) >= 40
        return (0.0, max(1.0, alpha)) if valid and alpha >= 0 else None
    stated: tuple[float, float] | None = vars(type(activation)).get("slopes")
    return stated
