"""Networks `g(x)` or `g(x, context)` with `Lip(g) <= lipschitz` in `x`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from impflow_zoo.lipschitz.activations import Scaled, expansion, folded, has_hooks, make_activation
from impflow_zoo.lipschitz.arguments import (
    check_bound,
    check_context,
    check_context_size,
    check_sizes,
)
from impflow_zoo.lipschitz.induced import is_uniform, make_linear, spaces
from impflow_zoo.lipschitz.norms import LipschitzLinear
from impflow_zoo.numerics.chain import Chain, Chained

__all__ = ["LipschitzMLP"]

_METHODS = frozenset(("forward", "core", "scales"))  # that somebody may have replaced on a module


class LipschitzMLP(Chained, nn.Module):
    """A multilayer perceptron with a bounded Lipschitz constant, the whole net's.

    Every layer gets an equal share of the constant, `lipschitz^(1 / layers)`; the activations
    have constant 1. A context enters by an unconstrained linear map added before each hidden
    activation: the bound is on `x` alone. Without `context_features` a context is ignored, so
    that unconditional blocks can stand in a conditional flow.

    Arguments:
        features: size of input and output.
        hidden_features: sizes of the hidden layers.
        activation: `"sin"`, `"lipswish"`, `"elu"`, `"softplus"`, `"clipswish"`, `"cpila"` or
            `"maxmin"`.
        lipschitz: bound of the Lipschitz constant, in the norm `norm`.
        context_features: size of a context row, or None.
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

    pure: ClassVar[bool] = True  # leaves its input as it is

    def __init__(
        self,
        features: int,
        hidden_features: Sequence[int] = (128, 128),
        activation: str = "sin",
        lipschitz: float = 0.99,
        context_features: int | None = None,
        *,
        norm: str = "2",
        preactivation: bool = False,
        stored_norms: bool = False,
    ) -> None:
        super().__init__()
        check_bound(lipschitz)
        if isinstance(hidden_features, int):
            raise ValueError(
                f"hidden_features={hidden_features}: a size for each hidden layer is needed, as "
                f"({hidden_features},)"
            )
        hidden_features = tuple(hidden_features)
        check_sizes(features=features, hidden_features=hidden_features)
        check_context_size(context_features)
        self.features, self.context_features = features, context_features
        self.norm = "inf" if norm == "inf" else "2"
        self.bound = float(lipschitz)
        self.bounded = is_uniform(norm) and not stored_norms
        widths = [features, *hidden_features, features]
        share = lipschitz ** (1 / (len(widths) - 1))
        hidden = [make_activation(activation, size) for size in hidden_features]
        self.activations = nn.ModuleList(hidden)
        self.first = make_activation(activation, features) if preactivation else None
        expansions = [expansion(self.first), *(expansion(a) for a in hidden)]
        self.layers = nn.ModuleList(
            LipschitzLinear(n * k, m, share, domain=math.inf, codomain=math.inf)
            if norm == "inf"
            else make_linear(n * k, m, share, space, stored=stored_norms)
            for n, m, k, space in zip(
                widths[:-1], widths[1:], expansions, spaces(norm, len(expansions)), strict=True
            )
        )
        self.context_layers = nn.ModuleList(
            nn.Linear(context_features, width) for width in hidden_features if context_features
        )

    @property
    def lipschitz(self) -> float | None:
        """Bound of the Lipschitz constant in the 2-norm; None if another norm is bounded."""
        return self.bound if self.bounded and self.norm == "2" else None

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Evaluate the net.

        Arguments:
            x: input with shape `[B, features]`.
            context: context with shape `[B, context_features]`, needed if the net has one.

        Raises:
            ValueError: if a context is missing or has the wrong shape.
        """
        self._check(x, context)
        h: Tensor = x
        scale: Tensor | float = 1.0
        if self.first is not None:
            core, before, scale = folded(self.first)
            h = core(before * h)
        for i, activation in enumerate(self.activations):
            core, before, after = folded(activation)
            h = self.layers[i](h, input_scale=scale, output_scale=before)
            if self.context_features and context is not None:
                h = h + before * self.context_layers[i](context)
            h, scale = core(h), after
        return self.layers[-1](h, input_scale=scale)

    def chain(self, x: Tensor, context: Tensor | None) -> Chain | None:
        """The net taken apart, where its activations have known derivatives.

        Not where somebody's hooks or another `forward` have to be heeded.
        """
        self._check(x, context)
        layers = [layer for layer in self.layers if type(layer) is LipschitzLinear]
        activations = [a for a in (self.first, *self.activations) if isinstance(a, Scaled)]
        complete = len(layers) == len(self.layers) and len(activations) == len(self.activations) + (
            self.first is not None
        )
        # A sub-class may have another core: it has to say so itself.
        functions = {vars(type(a)).get("function") for a in activations}
        function = next(iter(functions), None)
        if not complete or len(functions) != 1 or function is None or _watched(self):
            return None
        weights, biases = [], []
        scale: Tensor | float = 1.0
        if self.first is not None:
            before, scale = activations.pop(0).scales()
            weights.append(before * torch.eye(self.features, dtype=x.dtype, device=x.device))
            biases.append(x.new_zeros(self.features))
        for i, activation in enumerate(activations):
            before, after = activation.scales()
            weight, bias = layers[i].scaled(input_scale=scale, output_scale=before)
            if self.context_features and context is not None:
                added: nn.Module = self.context_layers[i]
                bias = bias + before * added(context)
            weights.append(weight)
            biases.append(bias)
            scale = after
        weight, bias = layers[-1].scaled(input_scale=scale)
        return Chain(function, (*weights, weight), (*biases, bias))

    def certificate(self) -> float | None:
        """Upper bound of the Lipschitz constant of the net as it is, in its norm."""
        return math.prod(layer.norm_bound() for layer in cast(list[LipschitzLinear], self.layers))

    def _check(self, x: Tensor, context: Tensor | None) -> None:
        if x.dim() != 2 or x.shape[1] != self.features:
            raise ValueError(
                f"input of shape {tuple(x.shape)}: this net takes [B, {self.features}]"
            )
        check_context(context, len(x), self.context_features)


def _watched(net: LipschitzMLP) -> bool:
    """Whether anything but the code of this package runs when the net is called."""
    if type(net).forward is not LipschitzMLP.forward:
        return True
    return any(has_hooks(m) or not _METHODS.isdisjoint(vars(m)) for m in net.modules())
