"""Perceptrons `g(x)` or `g(x, context)` with `Lip(g) <= lipschitz` in `x`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from impflow_zoo.lipschitz.activations import expansion, folded, make_activation, slopes, watched
from impflow_zoo.lipschitz.bounded import BoundedNet, check_sizes
from impflow_zoo.lipschitz.lipsdp import AffineMaps
from impflow_zoo.lipschitz.norms import LipschitzLinear, scaled_affine
from impflow_zoo.numerics.bound import BoundNet
from impflow_zoo.numerics.settings import is_real

__all__ = ["BoundPerceptron", "LipschitzMLP", "Perceptron", "Scale"]

Scale = Tensor | float


class BoundPerceptron(BoundNet):
    """`x -> W_n f_n(... f_1(W_1 x + b_1) ...) + b_n`.

    Arguments:
        functions: `f_1` to the last, one less than matrices.
        weights: `W_1` to `W_n`, with shape `[out, in]`.
        biases: vectors `[out]`, or one vector for each row of the batch, `[B, out]`.
    """

    def __init__(
        self,
        functions: Sequence[Callable[[Tensor], Tensor]],
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
    ) -> None:
        self.functions, self.weights, self.biases = functions, weights, biases
        self.tensors = (*weights, *biases)
        self.shape = (weights[0].shape[1],)

    def in_graph(self, x: Tensor) -> Tensor:
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = x if i == 0 else self.functions[i - 1](x)
            if bias.dim() == 1:
                x = functional.linear(x, weight, bias)
            else:
                x = functional.linear(x, weight) + bias
        return x

    def rows(self, index: Tensor) -> BoundPerceptron:
        if all(bias.dim() == 1 for bias in self.biases):
            return self
        biases = [bias if bias.dim() == 1 else bias[index] for bias in self.biases]
        return type(self)(self.functions, self.weights, biases)

    def negated(self) -> BoundPerceptron:
        weights, biases = ((*tensors[:-1], -tensors[-1]) for tensors in (self.weights, self.biases))
        return type(self)(self.functions, weights, biases)


class Perceptron(BoundedNet):
    """Affine maps with an activation between them; contexts are added before each activation.

    Sub-classes make `activations` and `layers`.

    A learned frequency `w` of a neuron puts `f(w t) / w` in the place of `f(t)`: the slopes are the
    same, so are the bounds, and both factors are multiplied into the weights.
    """

    def __init__(
        self,
        features: int,
        hidden_features: Sequence[int],
        lipschitz: float,
        context_features: int | None,
        frequency: float | None,
    ) -> None:
        super().__init__(lipschitz, context_features)
        if isinstance(hidden_features, int):
            raise ValueError(
                f"hidden_features={hidden_features}: a size for each hidden layer is needed, as "
                f"({hidden_features},)"
            )
        self.hidden_features = tuple(hidden_features)
        check_sizes(features=features, hidden_features=self.hidden_features)
        if frequency is not None and not (is_real(frequency) and 1e-3 <= frequency <= 1e3):
            raise ValueError(f"frequency={frequency!r}: a number from 0.001 to 1000 is needed")
        self.features, self.shape = features, (features,)
        self.activations = nn.ModuleList()
        self.log_frequencies = nn.ParameterList(
            torch.full((width,), math.log(frequency))
            for width in self.hidden_features
            if frequency is not None
        )
        self.context_layers = self.contexts(self.hidden_features)

    def affine(
        self, weights: Sequence[Tensor], i: int, before: Scale, after: Scale
    ) -> tuple[Tensor, Tensor]:
        """Weight and bias of `after * layer_i(before * x)`.

        Arguments:
            weights: the normalised weights of all layers.
            i: number of the layer.
            before: a scalar, or a factor for each column.
            after: a scalar, or a factor for each row.
        """
        return scaled_affine(weights[i], self.bounded_layers()[i].bias, before, after)

    def at(
        self, context: Tensor | None, scale: Scale = 1.0, *, training: bool | None = None
    ) -> BoundPerceptron:
        """The net of `scale * x` at a context; `training` as in `normalised`."""
        normal = self.normalised_weights(training=training)
        functions, weights, biases = [], [], []
        for i in range(len(self.activations)):
            function, before, after = self.folded(i)
            weight, bias = self.affine(normal, i, scale, before)
            added = self.added(i, context)
            functions.append(function)
            weights.append(weight)
            biases.append(bias if added is None else bias + before * added)
            scale = after
        weight, bias = self.affine(normal, len(self.layers) - 1, scale, 1.0)
        return BoundPerceptron(functions, (*weights, weight), (*biases, bias))

    @torch.no_grad()
    def maps(self) -> AffineMaps | None:
        """The weights that evaluation uses, in float64, and the slopes of the activations.

        None if the slopes of an activation are not known, or it has hooks.
        """
        ranges = {slopes(a) for a in self.activations} or {(0.0, 1.0)}
        hooks = any(watched(activation) for activation in self.activations)
        if hooks or len(ranges) != 1 or None in ranges:
            return None
        (found,) = ranges
        assert found is not None
        weights = self.at(None, training=False).weights
        return AffineMaps(tuple(weight.double() for weight in weights), found)

    def folded(self, i: int) -> tuple[Callable[[Tensor], Tensor], Scale, Scale]:
        """Activation `i` as a function and what stands before and after it, frequencies included.

        A frequency is a factor for each neuron.
        """
        function, before, after = folded(self.activations[i])
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
        super().__init__(features, hidden_features, lipschitz, context_features, frequency)
        self.activations.extend(make_activation(activation, n) for n in self.hidden_features)
        if frequency is not None and slopes(make_activation(activation)) is None:
            raise ValueError(f"frequency={frequency}: {activation!r} is not elementwise, set None")
        hidden = zip(self.hidden_features, self.activations, strict=True)
        inputs = [features, *(n * expansion(a) for n, a in hidden)]
        outputs = [*self.hidden_features, features]
        share = lipschitz ** (1 / len(outputs))
        self.layers = nn.ModuleList(
            LipschitzLinear(n, m, share) for n, m in zip(inputs, outputs, strict=True)
        )
