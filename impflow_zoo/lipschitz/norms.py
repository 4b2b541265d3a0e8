"""Layers whose operator norm does not exceed a coefficient.

The norm `|W| = max |W x| / |x|` is the largest singular value. `|W v|` of any unit vector `v`
bounds it from below, and attains it at the first singular vector, to which `v <- W^T W v / |W^T W
v|` converges. Divided by `max(1, |W| / c)` a weight has a norm of at most `c`; smaller weights stay
as they are. The derivative of `|W|` is `u^T dW v` with `u = W v / |W v|`, as `u` and `v` are unit
vectors, whose changes are orthogonal to them: so both count as constants.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from impflow_zoo.lipschitz.activations import watched
from impflow_zoo.lipschitz.folded_layers import FoldedLayers
from impflow_zoo.lipschitz.kept import Kept
from impflow_zoo.numerics.finite import NotFiniteError, overflows, too_large
from impflow_zoo.numerics.modes import is_plain, is_transforming, without_autocast

__all__ = ["LipschitzLayer", "LipschitzLinear", "SpectralLayer", "is_replaced", "refresh_norms"]

Scale = Tensor | float


class LipschitzLayer(nn.Module, ABC):
    """A linear map with a bias, `W x + b`, where the norm of `W` is at most `coefficient`."""

    weight: nn.Parameter
    bias: nn.Parameter
    coefficient: float

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate the layer on rows, `[B, in]`, or on images, `[B, in, H, W]`."""
        return FoldedLayers((), (), (self.normalised_weight(),), (self.bias,)).forward(x)

    @abstractmethod
    def normalised_weight(self, *, training: bool | None = None) -> Tensor:
        """`W`; `training` as in `norms_of`."""

    @torch.no_grad()
    def norm_bound(self) -> float:
        """The norm of `W` in evaluation, by singular values in float64, rounding included."""
        weight = self.normalised_weight(training=False).double()
        return float(torch.linalg.matrix_norm(weight, 2)) * (1 + 1e-12)

    def settle(self) -> None:
        """Bring buffers to what evaluation uses: nothing, if there are none."""


class SpectralLayer(LipschitzLayer):
    """A layer with `W / max(1, |W| / coefficient)` in place of its weight `W`.

    Power iteration approximates the operator norm `|W| = |W v|` from below. In training mode it
    runs whenever the weight is normalised, and the buffer `vector` takes its `v`. Evaluation
    iterates `v` to convergence, starting from the buffer, and writes nothing. It does so once, and
    again when the layer has changed. A vector that attains the norm already stays as it is, so a
    loaded layer is bit-equal to the saved one. A function that `torch.func` transforms may not
    write: there training iterates as evaluation does.
    Where outputs are fewer than inputs, the adjoint takes the place of `W`: it has the same norm,
    and its vector is smaller.
    Gradients take `v` and `u = W v / |W v|` as constants and flow through `u . W v`.

    Sub-classes define the `operator` and the `adjoint`, and two vectors: `converged`, and
    `advanced` by the iterations of one training step. The converged vectors of classes that are not
    of this package are not kept.
    """

    vector: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.kept: Kept[Tensor] = Kept()

    @abstractmethod
    def operator(self, weight: Tensor, v: Tensor) -> Tensor:
        """`W v` as a flat vector."""

    @abstractmethod
    def adjoint(self, weight: Tensor) -> Tensor:
        """The weight of the adjoint operator of a weight."""

    @abstractmethod
    def converged(self) -> Tensor:
        """The buffer's vector, iterated to convergence."""

    @abstractmethod
    def advanced(self) -> Tensor:
        """The buffer's vector, iterated as far as a training step does."""

    @torch.no_grad()
    def advance(self) -> Tensor:
        """Write the advanced vector into the buffer, and return it."""
        vector = self.advanced()
        self.vector.copy_(vector)
        return vector

    @torch.no_grad()
    def settled(self, find: Callable[[], Tensor] | None = None) -> Tensor:
        """The converged vector, kept; another function may find it."""
        find = self.converged if find is None else find
        if is_plain():
            return find().detach()  # derivatives of singular vectors may be infinite
        settings = [type(self), self, *vars(self).values()]
        return self.kept.get(((self.weight, self.vector), settings), partial(self._measure, find))

    def _measure(self, find: Callable[[], Tensor]) -> Tensor:
        """The vector that a function finds, unless the weight has no norm in its type."""
        if overflows(self.weight):
            raise NotFiniteError(f"the weight of this layer {too_large(self.weight)}")
        return find()

    @torch.no_grad()
    def settle(self) -> None:
        """Write the converged vector into the buffer, for instance before saving."""
        self.vector.copy_(self.settled())
        self.settled(self.vector.clone)  # which has converged

    def norm(self, *, iterate: bool) -> Any:
        """`|W|`, iterated by one training step or to convergence; differentiable in `W`."""
        steps = iterate and not is_transforming()  # a function that is transformed writes nothing
        return self.attained(self.advance() if steps else self.settled())

    def attained(self, vector: Tensor | None = None) -> Any:
        """`|W v|` at a vector, by default that of the buffer; differentiable in `W`."""
        v = self.vector if vector is None else vector
        image = self.operator(self.tall(self.weight), v)
        u, length = image.detach(), self.length(image.detach())
        # `sum` adds in pairs: `torch.dot` of 500,000 numbers in float32 is off by 3e-6. Where
        # squares overflow, the ratio is NaN: a number would leave the weight without its bound.
        return (u * image).sum() / length.clamp(min=torch.finfo(u.dtype).tiny)

    def tall(self, weight: Tensor) -> Tensor:
        """A weight, or its adjoint if that has more outputs."""
        outputs, inputs, *_ = weight.shape
        return weight if outputs >= inputs else self.adjoint(weight)

    def length(self, vector: Tensor) -> Tensor:
        """The norm of a flat vector."""
        return torch.linalg.vector_norm(vector)

    def unit(self, vector: Tensor) -> Tensor:
        """`v / |v|`, and 0 for 0."""
        return vector / self.length(vector).clamp(min=torch.finfo(vector.dtype).tiny)

    def in_use(self, norm: Tensor, scale: Scale = 1.0) -> Tensor:
        """The weight shrunk to the coefficient where its norm exceeds that, times a scale."""
        number = 1.0 if isinstance(scale, Tensor) else scale
        weight = self.weight / (norm.clamp(min=self.coefficient) / (self.coefficient * number))
        return weight * spread(scale, weight.dim() - 2) if isinstance(scale, Tensor) else weight

    def normalised_weight(self, *, training: bool | None = None) -> Tensor:
        """The weight in use, with the shape of `weight`; `training` as in `norms_of`."""
        return self.in_use(norms_of([self], training=training)[0])

    def _start(self, plain: nn.Linear | nn.Conv2d, coefficient: float, pixels: int) -> None:
        """Take weight and bias of a layer of torch; the vector waits for a use or a file."""
        assert plain.bias is not None
        self.coefficient = float(coefficient)
        self.weight, self.bias = (nn.Parameter(p.detach()) for p in (plain.weight, plain.bias))
        outputs, inputs, *_ = self.weight.shape
        # Saved, as those of convolutions take seconds to make again, and the norms that they find
        # would differ by more than a certificate allows.
        self.register_buffer("vector", torch.zeros(min(outputs, inputs) * pixels))


class LipschitzLinear(SpectralLayer):
    """A linear layer with bounded spectral norm.

    Arguments:
        in_features: size of the input.
        out_features: size of the output.
        coefficient: largest norm allowed; smaller weights are not changed.
    """

    def __init__(self, in_features: int, out_features: int, coefficient: float = 0.97) -> None:
        super().__init__()
        self._start(nn.Linear(in_features, out_features), coefficient, 1)

    def operator(self, weight: Tensor, v: Tensor) -> Tensor:
        return weight @ v

    def adjoint(self, weight: Tensor) -> Tensor:
        return weight.mT

    @torch.no_grad()
    def converged(self) -> Tensor:
        # Without a branch on the numbers, which `torch.func.vmap` could not take.
        weight = self.tall(self.weight).nan_to_num(0.0, 0.0, 0.0)
        _, s, vh = torch.linalg.svd(weight, full_matrices=False)
        rounding = 16 * torch.finfo(s.dtype).eps
        return torch.where(self.attained() >= (1 - rounding) * s[0], self.vector, vh[0])

    def advanced(self) -> Tensor:
        """By eight squarings of `W^T W`: 256 power iterations, from every start at once.

        Power iteration from the vector of the last step would be cheaper. But it does not find
        another singular vector that has overtaken, as the two are orthogonal.
        """
        weight = self.tall(self.weight)
        largest = weight.abs().amax().clamp(min=torch.finfo(weight.dtype).tiny)
        weight = weight / largest  # squares of larger entries could overflow
        return _leading(weight.mT @ weight)


def _leading(power: Tensor) -> Tensor:
    """The leading eigenvector of a Gram matrix, as far as 256 power iterations find it.

    The host does not wait for numbers here, as it does in `torch.linalg.eigh`, and the compiler
    does not stop.
    """
    if len(power) == 2:  # the main axis of an ellipse
        angle = torch.atan2(2 * power[0, 1], power[0, 0] - power[1, 1]) / 2
        return torch.stack((angle.cos(), angle.sin()))
    tiny = torch.finfo(power.dtype).tiny
    for i in range(8):
        if i % 3 == 0:  # a trace of one keeps the next three squares from under- and overflow
            power = power / power.trace().clamp(min=tiny)
        power = power @ power
    return unit(power.index_select(1, power.diagonal().argmax().view(1))[:, 0])


def unit(v: Tensor) -> Tensor:
    """`v / |v|`, and 0 for 0."""
    return v / torch.linalg.vector_norm(v).clamp(min=torch.finfo(v.dtype).tiny)


def spread(scale: Scale, dims: int) -> Scale:
    """A scale with this many dimensions more, of size 1, at its end."""
    return scale.view(*scale.shape, *[1] * dims) if isinstance(scale, Tensor) else scale


def norms_of(layers: Sequence[SpectralLayer], *, training: bool | None = None) -> list[Any]:
    """What `in_use` of some layers takes, in their own types, autocast or not.

    In training mode, or as `training` says, norms are iterated. In evaluation they have converged.
    """
    with without_autocast(*layers):
        return [
            layer.norm(iterate=layer.training if training is None else training) for layer in layers
        ]


def is_replaced(layer: LipschitzLayer) -> bool:
    """Whether a layer has hooks or another `forward`: then it has to be called for them to run."""
    return watched(layer) or type(layer).forward is not LipschitzLayer.forward


def refresh_norms(module: nn.Module) -> None:
    """Bring the vectors of all layers to convergence, for instance before saving."""
    with without_autocast(module):
        for layer in module.modules():
            if isinstance(layer, LipschitzLayer):
                layer.settle()
