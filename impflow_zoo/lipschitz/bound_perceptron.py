"""A perceptron whose weights are fixed: what nets of linear layers come to for one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional

from impflow_zoo.numerics.bound import BoundNet

__all__ = ["BoundPerceptron"]


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
