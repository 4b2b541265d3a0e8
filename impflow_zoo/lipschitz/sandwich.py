"""Perceptrons whose Lipschitz bound is proved for all layers together.

With slopes in [0, 1] an activation is a projection-like map: `|f(s) - f(t)|^2 <= (f(s) - f(t)) (s -
t)`. Then `h -> sqrt(2) A^T f(sqrt(2) B h)` does not stretch distances if `A A^T + B B^T = I`: for a
difference `d` of inputs and `w` of the values of `f`, `|sqrt(2) A^T w|^2 = 2 |w|^2 - 2 |B^T w|^2`
is at most `2 sqrt(2) w^T B d - 2 |B^T w|^2 = |d|^2 - |d - sqrt(2) B^T w|^2`. Such layers follow
each other, so the `A` of one and the `B` of the next make one weight; `sqrt(L)` at both ends gives
the bound `L`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from impflow_zoo.lipschitz.activations import (
    ACTIVATIONS,
    make_activation,
    slopes,
)
from impflow_zoo.lipschitz.lipsdp import maps_of, optimised_multipliers, proved_bound
from impflow_zoo.lipschitz.norms import LipschitzLayer, Scale, spread
from impflow_zoo.lipschitz.perceptron import Perceptron
from impflow_zoo.numerics.modes import without_autocast

__all__ = ["SANDWICH_ACTIVATIONS", "CayleyLayer", "SandwichMLP"]

_LARGEST = 30.0  # free matrices are scaled down to it: with larger entries float32 loses digits


def _is_monotone(name: str) -> bool:
    interval = slopes(make_activation(name))
    return interval is not None and interval[0] >= 0


SANDWICH_ACTIVATIONS = tuple(name for name in ACTIVATIONS if _is_monotone(name))


class CayleyLayer(LipschitzLayer):
    """A pair of matrices `[A B]` with orthonormal rows, and a bias; called, it is `B x + b`.

    The pair is the Cayley transform of a free matrix. It is shrunk by what rounding leaves of
    `A A^T + B B^T - I`, so that `A A^T + B B^T <= I` holds for weights of any size. A matrix with
    entries above 30 is first scaled down. Gradients take both factors as constants.

    References:
        Direct Parameterization of Lipschitz-Bounded Deep Networks (Wang & Manchester, 2023), 3
        https://arxiv.org/abs/2301.11526

    Arguments:
        in_features: columns of `B`.
        out_features: rows of `A` and `B`, and columns of `A`.
    """

    coefficient = 1.0  # `A A^T + B B^T <= I`

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features + in_features, out_features))
        self.bias = nn.Parameter(torch.empty(out_features))
        nn.init.xavier_normal_(self.weight)
        bound = 1 / math.sqrt(in_features)
        nn.init.uniform_(self.bias, -bound, bound)

    def pair(self) -> tuple[Tensor, Tensor]:
        """`A`, `[out, out]`, and `B`, `[out, in]`."""
        with without_autocast(self):
            p, q, rounding = self.transform()
            shrunk = (1 + rounding).rsqrt()
            return -shrunk * p.mT, -2 * shrunk * q.mT

    def normalised_weight(self, *, training: bool | None = None) -> Tensor:
        """`B`, in any mode."""
        return self.pair()[1]

    def transform(self) -> tuple[Tensor, Tensor, Tensor]:
        """`P`, `[out, out]`, `Q`, `[in, out]`, and their rounding.

        With a free matrix `[S; V]` and `N = (I + S - S^T + V^T V)^-1` these are `P = I - 2 N` and
        `Q = V N`. Without rounding the pair is `A = -P^T` and `B = -2 Q^T`; the rounding is the
        norm of `A A^T + B B^T - I`.
        """
        largest = self.weight.detach().abs().amax()
        free = self.weight / (largest / _LARGEST).clamp(min=1)
        square, rest = free.split((free.shape[1], free.shape[0] - free.shape[1]))
        identity = torch.eye(len(square), dtype=free.dtype, device=free.device)
        total = torch.addmm(identity + square - square.mT, rest.mT, rest)
        inverse = torch.linalg.inv_ex(total)[0]
        p, q = torch.add(identity, inverse, alpha=-2), rest @ inverse
        with torch.no_grad():
            excess = torch.addmm(identity, p.mT, p, beta=-1)
            return p, q, torch.linalg.vector_norm(torch.addmm(excess, q.mT, q, alpha=4))

    def extra_repr(self) -> str:
        size = len(self.bias)
        return f"{len(self.weight) - size}, {size}"


class SandwichMLP(Perceptron):
    """A multilayer perceptron with a Lipschitz bound that is proved for all its layers together.

    It costs as much per row as a `LipschitzMLP` of the same sizes. With two hidden layers or more
    it has two to three times its parameters. A `LipschitzMLP` is bounded by the product of its
    layers' norms, which is loose: its slopes stay well below the bound. The weights of this net
    satisfy a semidefinite certificate (LipSDP), and its slopes can come close to the bound.

    With `[A_k B_k]` the pair of layer `k`, `F_k` the diagonal matrix of its frequencies and `L` the
    bound, the weights are `W_0 = sqrt(2 L) F_0 B_0`, `W_k = 2 F_k B_k A_(k-1)^T F_(k-1)^-1` and, in
    the last layer, `W_n = sqrt(2 L) B_n A_(n-1)^T F_(n-1)^-1`.

    References:
        Direct Parameterization of Lipschitz-Bounded Deep Networks (Wang & Manchester, 2023), (6)
        https://arxiv.org/abs/2301.11526

    Arguments:
        features: size of input and output.
        hidden_features: sizes of the hidden layers.
        activation: `"halfsin"`, `"elu"`, `"relu"`, `"softplus"`, `"tanh"` or
            `"shifted-lipswish"`.
        lipschitz: bound on the Lipschitz constant in `x`, in the 2-norm.
        context_features: size of a context row, or None; contexts enter as in `LipschitzMLP`.
        frequency: initial value of the learned frequencies `w`. Each hidden neuron computes
            `f(w t) / w`, which does not change the bound.

    Raises:
        ValueError: for sizes, a bound or a frequency that are not positive, and for activations
            whose slopes leave [0, 1].

    Example:
        >>> import torch
        >>> net = SandwichMLP(features=2, hidden_features=(32, 32), lipschitz=0.9)
        >>> net(torch.zeros(5, 2)).shape
        torch.Size([5, 2])
        >>> f"{net.certificate():.4f}"
        '0.9000'
    """

    lipschitz: float

    def __init__(
        self,
        features: int,
        hidden_features: Sequence[int] = (128, 128),
        activation: str = "halfsin",
        lipschitz: float = 0.99,
        context_features: int | None = None,
        *,
        frequency: float = 1.0,
    ) -> None:
        if activation not in SANDWICH_ACTIVATIONS:
            raise ValueError(
                f"activation {activation!r}: sandwich nets take names of activations with slopes "
                f"in [0, 1], {', '.join(SANDWICH_ACTIVATIONS)}"
            )
        if frequency is None:
            raise ValueError("frequency=None: a number is needed, such as 1.0")
        sizes = (features, hidden_features)
        super().__init__(*sizes, activation, lipschitz, context_features, frequency)
        widths = [features, *self.hidden_features, features]
        self.layers = nn.ModuleList(CayleyLayer(n, m) for n, m in itertools.pairwise(widths))

    def weights_in_use(
        self, rows: Sequence[Scale], columns: Sequence[Scale], *, training: bool | None = None
    ) -> list[Tensor]:
        layers = cast(list[CayleyLayer], self.lipschitz_layers())
        with without_autocast(*layers):
            transforms = [layer.transform() for layer in layers]
            shrinkage = 1 / (1 + torch.stack([rounding for _, _, rounding in transforms]).amax())
            weights = [transforms[0][1].mT]
            weights += [q.mT @ p for (p, _, _), (_, q, _) in itertools.pairwise(transforms)]
        for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
            # With `A = -P^T` and `B = -2 Q^T` the product `2 B A^T` is `4 Q^T P`.
            factor = (2 if i else -2) * self._factor(i) * shrinkage
            weights[i] = weights[i] * (spread(factor * row, 1) * column)
        return weights

    def _factor(self, i: int) -> float:
        """The number before `B_i A_(i-1)^T`, or before `B_0`."""
        ends = (i == 0) + (i == len(self.layers) - 1)
        return 2 * (self.lipschitz / 2) ** (ends / 2)

    def entering(self, i: int, x: Tensor) -> Tensor:
        """A layer is `B_i x + b_i`, of `x` `[B, width]`; the rest of the weight comes before."""
        if i:
            x = x @ cast(CayleyLayer, self.layers[i - 1]).pair()[0]
        return self._factor(i) * x

    @torch.no_grad()
    def certificate(self) -> float | None:
        """Upper bound on the Lipschitz constant, proved for the weights that evaluation uses.

        None if there is no proof, for instance if weights are not finite, or if a sub-class has a
        `forward` of its own.
        """
        maps = maps_of(self) if self.is_known() else None
        if maps is None:
            return None
        bound = self.lipschitz
        inner = [before for _, before, _ in self.scaled_functions()]
        multipliers = [bound / torch.as_tensor(scale).double() ** 2 for scale in inner]
        return proved_bound(maps, multipliers, bound) or proved_bound(
            maps, *optimised_multipliers(maps)
        )
