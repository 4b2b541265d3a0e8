"""Perceptrons `g(x)` or `g(x, context)` with `Lip(g) <= lipschitz` in `x`.

Each of the `n` layers has a norm of at most `lipschitz^(1 / n)`, and activations have the constant
1: the product bounds the net.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from impflow_zoo.lipschitz.activations import expansion
from impflow_zoo.lipschitz.folded_layers import FoldedLayers
from impflow_zoo.lipschitz.folded_perceptron import FoldedPerceptron
from impflow_zoo.lipschitz.net import LipschitzNet, check_sizes
from impflow_zoo.lipschitz.norms import LipschitzLinear

__all__ = ["LipschitzMLP"]


class Perceptron(LipschitzNet):
    """What perceptrons share. Sub-classes make `layers`."""

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
        if not isinstance(hidden_features, Sequence):
            raise ValueError(f"hidden_features={hidden_features}: sizes are needed, as (64, 64)")
        self.hidden_features = tuple(hidden_features)
        check_sizes(features=features, hidden_features=self.hidden_features)
        self.features = features
        self.start(activation, self.hidden_features, frequency)

    def form(self, plain: FoldedLayers) -> FoldedLayers:
        return FoldedPerceptron.of(plain)


class LipschitzMLP(Perceptron):
    """A multilayer perceptron with a bounded Lipschitz constant.

    Every layer gets an equal share of the constant, `lipschitz^(1 / layers)`; the activations
    have constant 1. An unconstrained linear map of the context is added before each hidden
    activation: the bound is only on `x`. Without `context_features` a context is ignored, so a
    conditional flow may contain unconditional blocks.

    Arguments:
        features: size of input and output.
        hidden_features: sizes of the hidden layers.
        activation: `"sin"`, `"halfsin"`, `"lipswish"`, `"shifted-lipswish"`, `"elu"`,
            `"relu"` (log-determinants warn against it in training), `"softplus"`, `"tanh"`,
            `"clipswish"`, `"cpila"` or `"maxmin"`; or a class of modules with constant 1.
        lipschitz: bound on the Lipschitz constant, in the 2-norm.
        context_features: size of a context row, or None.
        frequency: initial value of the learned frequencies `w`. Each hidden neuron computes
            `f(w t) / w`, which does not change the bound. Only for elementwise activations. None
            for no learned frequencies.

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
        hidden = zip(self.hidden_features, self.activations, strict=True)
        inputs = [features, *(n * expansion(a) for n, a in hidden)]
        outputs = [*self.hidden_features, features]
        share = lipschitz ** (1 / len(outputs))
        self.layers = nn.ModuleList(
            LipschitzLinear(n, m, share) for n, m in zip(inputs, outputs, strict=True)
        )
