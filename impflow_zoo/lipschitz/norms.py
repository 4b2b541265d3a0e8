"""Layers whose operator norm does not exceed a coefficient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from impflow_zoo.lipschitz.bound_layers import BoundLayers
from impflow_zoo.numerics.modes import without_autocast

__all__ = ["LipschitzLayer", "LipschitzLinear", "refresh_norms"]

Scale = Tensor | float


class LipschitzLayer(nn.Module):
    """A layer with `W / max(1, |W| / coefficient)` in place of its weight `W`.

    Power iteration approximates the operator norm `|W| = |W v|` from below. In training mode it
    runs whenever the weight is normalised. In evaluation mode the vector `v` is iterated to
    convergence once, and again when any entry of the weight or of the vector has changed.
    A vector that attains the norm already is not changed, so a loaded layer is bit-equal to the
    saved one.
    Where outputs are fewer than inputs, the adjoint takes the place of `W`: it has the same norm,
    and its vector is smaller.
    Gradients take `v` and `u = W v / |W v|` as constants and flow through `u . W v`.

    Sub-classes define the `operator` and the `adjoint`; `converge`, which iterates the vector to
    convergence; `advance`, the update in training; and `norm_bound`, a proved bound on the norm of
    the normalised operator.
    """

    operator: Callable[[Tensor, Tensor], Tensor]  # of a weight `W` and `v`: `W v` as a flat vector
    adjoint: Callable[[Tensor], Tensor]  # of a weight: the weight of the adjoint operator
    converge: Callable[[], None]
    advance: Callable[[], None]
    norm_bound: Callable[[], float]
    weight: nn.Parameter
    bias: nn.Parameter
    vector: Tensor
    settled: Tensor | None = None  # what `state` was when the vector converged
    coefficient: float

    def state(self) -> tuple[Tensor, ...]:
        """The tensors that the weight in use depends on; sub-classes with more add them."""
        return self.weight, self.vector

    @torch.no_grad()
    def settle(self) -> None:
        """Bring the vector to convergence, unless it has converged for this weight already."""
        now, known = torch.cat([t.flatten() for t in self.state()]), self.settled
        if known is None or known.device != now.device or not known.equal(now):
            self.converge()
            self.settled = torch.cat([t.flatten() for t in self.state()])

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self.settled = None  # a vector in another type has not converged for the weight in it
        return self

    def _start(self, plain: nn.Linear | nn.Conv2d, coefficient: float, pixels: int) -> None:
        """Take weight and bias of a layer of torch; the vector waits for a use or a file."""
        assert plain.bias is not None
        self.coefficient = float(coefficient)
        self.weight, self.bias = (nn.Parameter(p.detach()) for p in (plain.weight, plain.bias))
        outputs, inputs, *_ = self.weight.shape
        self.register_buffer("vector", torch.zeros(min(outputs, inputs) * pixels))

    def tall(self, weight: Tensor) -> Tensor:
        """A weight, or its adjoint if that has more outputs."""
        outputs, inputs, *_ = weight.shape
        return weight if outputs >= inputs else self.adjoint(weight)

    def attained(self) -> Any:
        """`|W v|`, differentiable in `W`."""
        # The next forward may come before this one's backward.
        v = self.vector.clone() if torch.is_grad_enabled() else self.vector
        image = self.operator(self.tall(self.weight), v)
        # `sum` adds in pairs: `torch.dot` of 500,000 numbers in float32 is off by 3e-6.
        return (self.unit(image.detach()) * image).sum()

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

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate the layer on rows, `[B, in]`, or on images, `[B, in, H, W]`."""
        return BoundLayers((), (), (self.normalised_weight(),), (self.bias,)).in_graph(x)

    def normalised_weight(self, *, training: bool | None = None) -> Tensor:
        """The weight in use, with the shape of `weight`; `training` as in `norms_of`."""
        return self.in_use(norms_of([self], training=training)[0])


class LipschitzLinear(LipschitzLayer):
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
    def converge(self) -> None:
        if bool(self.weight.isfinite().all()):
            _, s, vh = torch.linalg.svd(self.tall(self.weight), full_matrices=False)
            rounding = 16 * torch.finfo(s.dtype).eps
            if not bool(self.attained() >= (1 - rounding) * s[0]):
                self.vector.copy_(vh[0])

    def advance(self) -> None:
        """Square `W^T W` eight times: 256 power iterations, from every start at once.

        Power iteration from the vector of the last step would be cheaper. But it does not find
        another singular vector that has overtaken, as the two are orthogonal.
        """
        weight = self.tall(self.weight)
        self.vector.copy_(_leading(weight.mT @ weight))

    @torch.no_grad()
    def norm_bound(self) -> float:
        """The spectral norm, by singular values in float64, rounding included."""
        weight = self.normalised_weight(training=False).double()
        return float(torch.linalg.matrix_norm(weight, 2)) * (1 + 1e-12)


def _leading(power: Tensor) -> Tensor:
    """The leading eigenvector of a Gram matrix, as far as 256 power iterations find it."""
    if len(power) <= 8:  # all eigenvectors cost less than the squarings
        return torch.linalg.eigh(power.nan_to_num(0.0, 0.0, 0.0))[1][:, -1]
    tiny = torch.finfo(power.dtype).tiny
    for i in range(8):
        if i % 3 == 0:  # a trace of one keeps the next three squares from under- and overflow
            power = power / power.trace().clamp(min=tiny)
        power = power @ power
    return unit(power[:, power.diagonal().argmax()])


def unit(v: Tensor) -> Tensor:
    """`v / |v|`, and 0 for 0."""
    return v / torch.linalg.vector_norm(v).clamp(min=torch.finfo(v.dtype).tiny)


def spread(scale: Scale, dims: int) -> Scale:
    """A scale with so many dimensions more, of size 1, at its end."""
    return scale.view(*scale.shape, *[1] * dims) if isinstance(scale, Tensor) else scale


def norms_of(layers: Sequence[LipschitzLayer], *, training: bool | None = None) -> list[Any]:
    """What `in_use` of some layers takes, in their own types, autocast or not.

    In training mode, or as `training` says, norms are iterated. In evaluation they are settled.
    """
    with without_autocast(*layers):
        with torch.no_grad():
            for layer in layers:
                iterated = layer.training if training is None else training
                (layer.advance if iterated else layer.settle)()
        return [layer.attained() for layer in layers]


def refresh_norms(module: nn.Module) -> None:
    """Bring the vectors of all layers to convergence, for instance before saving."""
    with without_autocast(module):
        for layer in module.modules():
            if isinstance(layer, LipschitzLayer):
                layer.settle()
