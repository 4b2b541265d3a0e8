"""Perceptrons `g(x)` or `g(x, context)` with `Lip(g) <= lipschitz` in `x`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from impflow_zoo.lipschitz.activations import expansion, make_activation, slopes
from impflow_zoo.lipschitz.bound_layers import Function
from impflow_zoo.lipschitz.bounded import BoundedNet, check_sizes
from impflow_zoo.lipschitz.norms import LipschitzLinear, Scale
from impflow_zoo.numerics.settings import is_real

__all__ = ["LipschitzMLP"]


class Perceptron(BoundedNet):
    """What perceptrons share. Sub-classes make `activations` and `layers`.

    A learned frequency `w` of a neuron puts `f(w t) / w` in the place of `f(t)`: the slopes are the
    same, so are the bounds, and both factors are multiplied into the weights.
    """

    def __init__(
        self,
        features: int,
        hidden_features: Sequence[int],
        activation: str | type[nn.Module],
        lipschitz: float,
        context_features: int | None,
        frequency: float | None,
    ) -> None:
        super().__init__((features,), lipschitz, context_features)
        if isinstance(hidden_features, int):
            sizes = f"sizes are needed, as ({hidden_features},)"
            raise ValueError(f"hidden_features={hidden_features}: {sizes}")
        self.hidden_features = tuple(hidden_features)
        check_sizes(features=features, hidden_features=self.hidden_features)
        if frequency is not None and not (is_real(frequency) and 1e-3 <= frequency <= 1e3):
            raise ValueError(f"frequency={frequency!r}: a number from 0.001 to 1000 is needed")
        self.features = features
        kinds = (make_activation(activation, n) for n in self.hidden_features)
        self.activations = nn.ModuleList(kinds)
        self.log_frequencies = nn.ParameterList(
            torch.full((width,), math.log(frequency))
            for width in self.hidden_features
            if frequency is not None
        )
        self.context_layers = self.contexts(self.hidden_features)

    def folded(self, i: int) -> tuple[Function, Scale, Scale]:
        """Activation `i`, its frequencies included: a factor for each neuron."""
        function, before, after = super().folded(i)
        if self.log_frequencies:
            # Beyond these bounds products of frequencies leave float32.
            frequency = self.log_frequencies[i].clamp(-8.0, 8.0).exp()
            before, after = before * frequency, after / frequency
        return function, before, after


class LipschitzMLP(Perceptron):
    """A multilayer perceptron with a bounded Lipschitz constant, the whole net's.

    Every layer gets an equal share of the constant, `lipschitz^(1 / layers)`; the activations
    have constant 1. A context enters by an unconstrained linear map added before each hidden
    activation: the bound is on `x` alone. Without `context_features` a context is ignored, so
    that unconditional blocks can stand in a conditional flow.

    Arguments:
        features: size of input and output.
        hidden_features: sizes of the hidden layers.
        activation: `"sin"`, `"halfsin"`, `"lipswish"`, `"shifted-lipswish"`, `"elu"`,
            `"relu"` (log-determinants warn of it in training), `"softplus"`, `"tanh"`,
            `"clipswish"`, `"cpila"` or `"maxmin"`; or a class of modules with constant 1.
        lipschitz: bound of the Lipschitz constant, in the 2-norm.
        context_features: size of a context row, or None.
        frequency: where the frequencies start that are learned, one for each hidden neuron, which
            computes `f(w t) / w`: the bound does not change. None learns none. For elementwise
            activations.

    Example:
        >>> import torch
        >>> net = LipschitzMLP(features=2, hidden_features=(32, 32), lipschitz=0.9)
        >>> net(torch.zeros(5, 2)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        features: int,
        hidden_features: Sequence[int] = (128, 128),
        activation: str | type[nn.Module] = "sin",
        lipschitz: float = 0.99,
        context_features: int | None = None,
        *,
        frequency: float | None = None,
    ) -> None:
        sizes = (features, hidden_features)
        super().__init__(*sizes, activation, lipschitz, context_features, frequency)
        if frequency is not None and slopes(make_activation(activation)) is None:
            raise ValueError(f"frequency={frequency}: {activation!r} is not elementwise, set None")
        hidden = zip(self.hidden_features, self.activations, strict=True)
        inputs = [features, *(n * expansion(a) for n, a in hidden)]
        outputs = [*self.hidden_features, features]
        share = lipschitz ** (1 / len(outputs))
        self.layers = nn.ModuleList(
            LipschitzLinear(n, m, share) for n, m in zip(inputs, outputs, strict=True)
        )
