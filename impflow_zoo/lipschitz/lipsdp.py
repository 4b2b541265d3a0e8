"""LipSDP: a Lipschitz bound of a whole perceptron, proved by one positive definite matrix.

For two inputs let `x` be their difference, `u_k` the difference of the values before activation `k`
and `w_k` the difference after it. With slopes in [a, 1], `(w - a u)(u - w) >= 0` holds for each
neuron. So `|net difference| <= rho |x|` holds if, for some multipliers `t_k >= 0` of the neurons,

    rho^2 |x|^2 - |W_n w_(n-1)|^2 - 2 sum_k (w_k - a u_k)^T diag(t_k) (u_k - w_k) >= 0

for all `x` and `w_k`, with `u_k = W_k w_(k-1)`, that is, if a matrix is positive semidefinite.

References:
    Efficient and Accurate Estimation of Lipschitz Constants for Deep Neural Networks
    (Fazlyab et al., 2019), theorem 2, https://arxiv.org/abs/1906.04893

    Verification of Positive Definiteness (Rump, 2006) https://doi.org/10.1007/s10543-006-0056-1
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from impflow_zoo.lipschitz.activations import slopes, watched
from impflow_zoo.lipschitz.certify import nets_of
from impflow_zoo.lipschitz.perceptron import LipschitzMLP, Perceptron

__all__ = ["AffineMaps", "lipsdp_bounds", "maps_of", "optimised_multipliers", "proved_bound"]

_FINEST = 1e-10  # relative slack of the first attempt at a proof; every further one has twice that
_COARSEST = 1.0
_STEPS = 150  # of the search for multipliers
_RATE = 0.05  # of its steps, in the logarithm of a multiplier
_LEAST_EXCESS = 1e-4  # relative, of the multipliers that it starts from over the smallest ones


@dataclass(frozen=True)
class AffineMaps:
    """The linear parts of a perceptron `W_n f(... f(W_0 x) ...)`.

    Arguments:
        weights: `W_0` to `W_n`, in float64.
        slopes: the smallest and the largest slope of `f`.
    """

    weights: tuple[Tensor, ...]
    slopes: tuple[float, float]

    @property
    def lowest(self) -> float:
        """`a`, 0 or less. The same net has slopes in [a, 1] with `normalised` weights."""
        return min(self.slopes[0] / self.slopes[1], 0.0)

    def normalised(self) -> tuple[list[Tensor], float]:
        """The weights of the same net with slopes in [a, 1], and `a`."""
        weights = [self.weights[0], *(self.slopes[1] * w for w in self.weights[1:])]
        return weights, self.lowest


@torch.no_grad()
def proved_bound(maps: AffineMaps, multipliers: list[Tensor], bound: float) -> float | None:
    """The smallest Lipschitz bound that a Cholesky factorisation proves near an expected one.

    Arguments:
        maps: the net.
        multipliers: one vector for each activation, for a net of slopes in [a, 1].
        bound: the constant that the multipliers are expected to prove. Wrong multipliers or a wrong
            expectation lead to a larger bound or to none, never to a wrong one.

    Returns:
        The bound, or None if none is proved up to twice the expectation.
    """
    weights, lowest = maps.normalised()
    if not all(bool(t.isfinite().all()) for t in (*weights, *multipliers)) or not bound > 0:
        return None
    slack = _FINEST
    while slack <= _COARSEST:
        # From the input to the output the inequality of each layer gets its share of the slack.
        raised = [
            t * (1 + slack) ** (2 * (1 - (k + 1) / len(weights))) for k, t in enumerate(multipliers)
        ]
        square = (bound * (1 + slack)) ** 2
        if _is_positive_definite(_matrix(weights, lowest, raised, square)):
            return math.sqrt(square) * (1 + 1e-12)
        slack *= 2
    return None


def _matrix(
    weights: list[Tensor], lowest: float, multipliers: list[Tensor], square: float
) -> Tensor:
    """The matrix of the inequality, bordered so that every entry is one product.

    Blocks: `x`, then each `w_k`, then the net's output, then, for slopes below zero, each `u_k`.
    """
    sizes = [weights[0].shape[1], *(len(w) for w in weights)]
    starts = [sum(sizes[:k]) for k in range(len(sizes) + 1)]
    hidden = starts[-2] - starts[1] if lowest < 0 else 0
    matrix = weights[0].new_zeros(starts[-1] + hidden, starts[-1] + hidden)
    diagonal = matrix.diagonal()
    diagonal[: starts[1]] = square
    for k, weight in enumerate(weights):
        below, own = slice(starts[k], starts[k + 1]), slice(starts[k + 1], starts[k + 2])
        if k == len(multipliers):
            diagonal[own] = 1
            matrix[own, below] = weight
            continue
        t = multipliers[k]
        diagonal[own] = 2 * t
        matrix[own, below] = -(1 + lowest) * t[:, None] * weight
        if lowest < 0:
            border = slice(own.start - starts[1] + starts[-1], own.stop - starts[1] + starts[-1])
            diagonal[border] = -2 * lowest * t
            matrix[border, below] = -2 * lowest * t[:, None] * weight
    return matrix


def _is_positive_definite(lower: Tensor) -> bool:
    """Whether a symmetric matrix is positive definite, given its lower triangle, for sure.

    Entries may be off by four roundings. A factorisation of `H - c I` that runs to its end proves
    it, if `c` exceeds what these and the rounding of the factorisation can do to an eigenvalue.
    """
    diagonal = lower.diagonal()
    if not bool((diagonal > 0).all() & lower.isfinite().all()):
        return False
    scale = torch.exp2((-0.5 * diagonal.log2()).round())  # powers of two: no rounding
    scaled = scale[:, None] * lower * scale
    eps, size = torch.finfo(lower.dtype).eps, len(lower)
    off = (size + 8) * eps * scaled.diagonal().sum() + 8 * eps * torch.linalg.matrix_norm(scaled)
    scaled.diagonal().sub_(off)
    return int(torch.linalg.cholesky_ex(scaled)[1]) == 0


def optimised_multipliers(maps: AffineMaps) -> tuple[list[Tensor], float]:
    """Multipliers that prove a small bound, and that bound up to rounding.

    The search varies the shape of each layer's multipliers and the excess of their scale over the
    smallest feasible one, so it stays feasible. It starts from multipliers that prove the product
    of the norms, up to one part in ten thousand.
    """
    start = math.log(max((1 + maps.lowest) / (1 - maps.lowest), _LEAST_EXCESS))
    with torch.enable_grad(), torch.inference_mode(mode=False):
        weights, lowest = maps.normalised()
        weights = [w.clone() for w in weights]
        shapes = [w.new_zeros(len(w)).requires_grad_() for w in weights[:-1]]
        excesses = [w.new_full((), start).requires_grad_() for w in weights[:-1]]
        kept, smallest = [w.new_ones(len(w)) for w in weights[:-1]], math.inf
        optimizer = torch.optim.Adam([*shapes, *excesses], lr=_RATE) if shapes else None
        for _ in range(_STEPS if shapes else 1):
            try:
                multipliers, bound = _solve(weights, lowest, shapes, excesses)
            except torch.linalg.LinAlgError:  # a layer of zeros, or weights that are not finite
                break
            if float(bound.detach()) < smallest:
                kept, smallest = multipliers, float(bound.detach())
            if optimizer is not None:
                optimizer.zero_grad()
                bound.log().backward()
                optimizer.step()
    return kept, smallest


def _solve(
    weights: list[Tensor], lowest: float, shapes: list[Tensor], excesses: list[Tensor]
) -> tuple[list[Tensor], Tensor]:
    """The multipliers of shapes and excesses, and the smallest bound that they allow.

    From the output to the input: what is above a layer asks for `2 diag(t) >= N`.
    """
    needed = weights[-1].mT @ weights[-1]
    multipliers: list[Tensor] = []
    for weight, shape, excess in zip(
        weights[-2::-1], reversed(shapes), reversed(excesses), strict=True
    ):
        root = (shape / 2).exp()
        smallest = torch.linalg.eigvalsh(needed / root / root[:, None])[-1] / 2
        t = (1 + excess.exp()) * smallest * root**2
        factor = torch.linalg.cholesky(torch.diag(2 * t) - needed)
        coupling = (1 + lowest) * t[:, None] * weight
        through = torch.linalg.solve_triangular(factor, coupling, upper=False)
        needed = through.mT @ through - 2 * lowest * weight.mT @ (t[:, None] * weight)
        multipliers.insert(0, t.detach())
    return multipliers, torch.linalg.eigvalsh(needed)[-1].sqrt()


@torch.no_grad()
def maps_of(net: Perceptron) -> AffineMaps | None:
    """The weights that evaluation uses, in float64, and the slopes of the activations.

    None if the slopes of an activation are not known, or it has hooks.
    """
    ranges = {None if watched(a) else slopes(a) for a in net.activations} or {(0.0, 1.0)}
    interval, *others = ranges
    if interval is None or others:
        return None
    weights = net.at(None, training=False).weights
    return AffineMaps(tuple(weight.double() for weight in weights), interval)


def lipsdp_bounds(model: nn.Module) -> dict[str, float]:
    """Tighter bounds, by the name of the net, for nets bounded by a product of norms.

    An optimisation finds multipliers with which the semidefinite inequality is proved. This takes
    up to a few seconds per net. Only perceptrons with elementwise activations have such a bound, in
    the 2-norm.
    """
    bounds = {}
    for name, net in nets_of(model):
        if isinstance(net, LipschitzMLP) and (maps := maps_of(net)) is not None:
            bound, product = proved_bound(maps, *optimised_multipliers(maps)), net.certificate()
            if bound is not None and product is not None and bound < product:
                bounds[name] = bound
    return bounds
