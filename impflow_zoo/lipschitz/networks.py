"""Networks `g(x)` or `g(x, context)` with `Lip(g) <= lipschitz` in `x`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from impflow_zoo.lipschitz.activations import expansion, make_activation, slopes
from impflow_zoo.lipschitz.induced import is_uniform, make_linear, spaces
from impflow_zoo.lipschitz.norms import LipschitzLinear
from impflow_zoo.lipschitz.perceptron import Perceptron, Scale

__all__ = ["LipschitzMLP"]


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
            `"softplus"`, `"tanh"`, `"clipswish"`, `"cpila"` or `"maxmin"`.
        lipschitz: bound of the Lipschitz constant, in the norm `norm`.
        context_features: size of a context row, or None.
        frequency: where the frequencies start that are learned, one for each hidden neuron, which
            computes `f(w t) / w`: the bound does not change. None learns none. For elementwise
            activations.
        norm: `"2"`, `"inf"`, or one character for each space between layers, see `spaces`. The
            2-norm is what error bounds and log-det bounds need. `"inf"` divides whole matrices and
            bounds the net in the infinity-norm; `f` for every space shrinks rows one by one, as
            published code does, and nothing is known of the net in advance.
        preactivation: start with an activation instead of a linear layer.
        stored_norms: keep power vectors as they are loaded instead of bringing them to
            convergence, for published weights; the bound is not known then.

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
        activation: str = "sin",
        lipschitz: float = 0.99,
        context_features: int | None = None,
        *,
        frequency: float | None = None,
        norm: str = "2",
        preactivation: bool = False,
        stored_norms: bool = False,
    ) -> None:
        super().__init__(features, hidden_features, lipschitz, context_features, frequency)
        self.norm = "inf" if norm == "inf" else "2"
        self.bound = float(lipschitz)
        self.bounded = is_uniform(norm) and not stored_norms
        widths = [features, *self.hidden_features, features]
        share = lipschitz ** (1 / (len(widths) - 1))
        self.activations.extend(make_activation(activation, n) for n in self.hidden_features)
        if frequency is not None and slopes(make_activation(activation)) is None:
            raise ValueError(f"frequency={frequency}: {activation!r} is not elementwise, set None")
        self.first = make_activation(activation, features) if preactivation else None
        expansions = [expansion(self.first), *(expansion(a) for a in self.activations)]
        self.layers = nn.ModuleList(
            LipschitzLinear(n * k, m, share, domain=math.inf, codomain=math.inf)
            if norm == "inf"
            else make_linear(n * k, m, share, space, stored=stored_norms)
            for n, m, k, space in zip(
                widths[:-1], widths[1:], expansions, spaces(norm, len(expansions)), strict=True
            )
        )

    @property
    def lipschitz(self) -> float | None:
        """Bound of the Lipschitz constant in the 2-norm; None if another norm is bounded."""
        return self.bound if self.bounded and self.norm == "2" else None

    def affine(
        self, weights: Sequence[Tensor], i: int, before: Scale, after: Scale
    ) -> tuple[Tensor, Tensor]:
        return cast(LipschitzLinear, self.layers[i]).scaled(weights[i], before, after)

    def is_plain(self) -> bool:
        plain = LipschitzLinear.forward
        return super().is_plain() and all(type(layer).forward is plain for layer in self.layers)

    def apply_layer(self, i: int, h: Tensor, before: Scale, after: Scale) -> Tensor:
        value: Tensor = self.layers[i](h, input_scale=before, output_scale=after)
        return value

    def certificate(self) -> float | None:
        """Upper bound of the Lipschitz constant of the net as it is, in its norm."""
        return math.prod(layer.norm_bound() for layer in cast(list[LipschitzLinear], self.layers))
