"""Layers between spaces of other norms than 2, and layers that keep the vectors they come with.

Published weights need both. A network that starts in one p-norm and ends in another is no
contraction in either by its layers' norms alone: what is certified of these layers is their 2-norm.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from impflow_zoo.lipschitz.convolutions import LipschitzConv2d
from impflow_zoo.lipschitz.norms import ROUNDED_UP, LipschitzLayer, LipschitzLinear

__all__ = ["has_closed_form", "is_uniform", "make_convolution", "make_linear", "spaces"]

_ORDERS = {"1": 1.0, "2": 2.0, "f": math.inf, "p": math.nan}
_STEPS = 200  # of the nonlinear power iteration
_RTOL = 1e-6  # growth of the norm below which it stops
_STARTS = 10  # of it, towards convergence


def is_uniform(norm: str) -> bool:
    """Whether one norm holds between all layers, so that the layers bound the whole net."""
    return isinstance(norm, str) and (norm == "inf" or set(norm) == {"2"})


def spaces(norm: str, layers: int) -> list[tuple[float, float]]:
    """The p-norms that each layer maps from and to.

    Arguments:
        norm: `"2"`, `"inf"`, or one character for each space, first to last: `1`, `2`, `f` for
            infinity, or all of them `p` for orders that come with the weights. Perceptrons take
            `"inf"` for more than `f` throughout: see `LipschitzMLP`.
        layers: number of layers, one less than spaces.

    Raises:
        ValueError: if it is none of these.
    """
    if not isinstance(norm, str):
        raise ValueError(f"norm={norm!r}: a text is needed, such as '2'")
    orders = {"2": "2", "inf": "f"}.get(norm, "") * (layers + 1) or norm
    known = set(orders) <= _ORDERS.keys() and ("p" not in orders or set(orders) == {"p"})
    if len(orders) != layers + 1 or not known:
        raise ValueError(
            f"unknown norm {norm!r}: choose '2', 'inf', or {layers + 1} characters for {layers} "
            "layers, each 1, 2 or f, or all of them p"
        )
    values = [_ORDERS[order] for order in orders]
    return list(itertools.pairwise(values))


def make_linear(
    inner: int, outer: int, coefficient: float, space: tuple[float, float], *, stored: bool
) -> LipschitzLinear:
    """A linear layer between p-norms, of the kind that the norms need.

    Arguments:
        inner: size of the input.
        outer: size of the output.
        coefficient: largest norm allowed.
        space: the p-norms, as `spaces` gives them.
        stored: keep power vectors as they are loaded.
    """
    if has_closed_form(space):
        return _SlicedLinear(inner, outer, coefficient, domain=space[0], codomain=space[1])
    if space == (2, 2):
        return (_StoredLinear if stored else LipschitzLinear)(inner, outer, coefficient)
    layer = (_StoredInducedLinear if stored else _InducedLinear)(inner, outer, coefficient)
    layer.start(space)
    return layer


def make_convolution(
    inner: int,
    outer: int,
    kernel: int,
    image_size: tuple[int, int],
    coefficient: float,
    space: tuple[float, float],
    *,
    stored: bool,
) -> LipschitzConv2d:
    """A convolution between p-norms; arguments as in `make_linear` and `LipschitzConv2d`."""
    shape = (inner, outer, kernel, image_size, coefficient)
    if has_closed_form(space):
        return _SlicedConv2d(*shape, space=space)
    if space == (2, 2):
        return (_StoredConv2d if stored else LipschitzConv2d)(*shape)
    layer = (_StoredInducedConv2d if stored else _InducedConv2d)(*shape)
    layer.start(space)
    return layer


def has_closed_form(space: tuple[float, float]) -> bool:
    """Whether the norm needs no power vectors."""
    return space[0] == 1 or space in ((2, math.inf), (math.inf, math.inf))


class _Stored(LipschitzLayer):
    """Uses `u` and `v` as they are, outside of training, converged or not.

    The published code divides by a number in float32, whatever the type of the weight.
    """

    def normalise(self, *, training: bool) -> Tensor:
        if training:
            with torch.no_grad():
                self.iterate()
        factor = (self.attained() / self.coefficient).float().to(self.weight.dtype)
        return self.weight / factor.clamp(min=1)

    def converge(self) -> None:
        if self.u.is_meta:  # counted, not used
            return
        if not bool(self.u.any()):  # a new layer: anything will do until weights are loaded
            self.v.copy_(functional.normalize(torch.randn_like(self.v), dim=0))
            with torch.no_grad():
                self.u.copy_(functional.normalize(self.operator(self.weight, self.v), dim=0))


class _StoredLinear(_Stored, LipschitzLinear):
    pass


class _StoredConv2d(_Stored, LipschitzConv2d):
    def normalise(self, *, training: bool) -> Tensor:
        weight = super().normalise(training=training)
        return weight.contiguous(memory_format=torch.channels_last)


class _SlicedLinear(LipschitzLinear):
    """Every row (or column, from the 1-norm) is shrunk on its own where it has to be."""

    def normalise(self, *, training: bool) -> Tensor:
        return _normalise_slices(self.weight, (self.domain, self.codomain), self.coefficient)

    @torch.no_grad()
    def norm_bound(self) -> float:
        """The 2-norm in float64."""
        weight = self.normalised_weight().double()
        return float(torch.linalg.matrix_norm(weight, 2)) * ROUNDED_UP


class _SlicedConv2d(LipschitzConv2d):
    """The same for the kernels of output channels (or input channels, from the 1-norm)."""

    def __init__(self, *shape: Any, space: tuple[float, float]) -> None:
        super().__init__(*shape)
        self.space = space
        for name in ("u", "v", "sigma"):  # not needed
            self.register_buffer(name, getattr(self, name), persistent=False)

    def converge(self) -> None:
        pass  # there is a closed form

    def normalise(self, *, training: bool) -> Tensor:
        return _normalise_slices(self.weight, self.space, self.coefficient)


def _normalise_slices(weight: Tensor, space: tuple[float, float], coefficient: float) -> Tensor:
    domain, codomain = space
    columns = domain == 1
    order = codomain if columns else {2.0: 2.0, math.inf: 1.0}[domain]
    others = [i for i in range(weight.dim()) if i != int(columns)]
    norms = torch.linalg.vector_norm(weight, order, dim=others, keepdim=True)
    return weight / (norms / coefficient).clamp(min=1)


class _Induced(LipschitzLayer):
    """The norm from any p-norm to any q-norm, by nonlinear power iteration, from below.

    There is no closed form, and the iteration may end in a local maximum: several are tried.

    References:
        The power method for l^p norms (Boyd, 1974)
        https://doi.org/10.1016/0024-3795(74)90029-9
    """

    orders: Tensor

    def start(self, space: tuple[float, float]) -> None:
        """Take the orders p and q; 2 where they come with the weights."""
        learned = math.isnan(space[0])
        orders = torch.tensor((2.0, 2.0) if learned else space)
        self.register_buffer("orders", orders, persistent=learned)
        self.settled.fill_(math.nan)
        self.converge()

    @torch.no_grad()
    def converge(self) -> None:
        if not hasattr(self, "orders"):
            return  # not yet, while the layer is being made
        self.iterate()
        generator = torch.Generator().manual_seed(0)
        for _ in range(_STARTS):
            v = torch.randn(len(self.v), generator=generator).to(self.v)
            self._climb(v, least=float(self.sigma))

    @torch.no_grad()
    def iterate(self) -> None:
        self._climb(self.v if bool(self.v.any()) else torch.randn_like(self.v), least=-math.inf)

    def _climb(self, v: Tensor, least: float) -> None:
        """Take the vectors at the local maximum above `v`, if the norm there is over `least`."""
        domain, codomain = self.orders.tolist()
        if not bool(self.weight.isfinite().all() and self.weight.any()):
            return
        norm = -math.inf
        for _ in range(_STEPS):
            u = _dual(self.operator(self.weight, v), codomain)
            back = self.adjoint(self.weight, u)
            v = _dual(back, _conjugate(domain))
            norm, before = float(torch.dot(back, v)), norm
            if norm - before <= _RTOL * norm:
                break
        if norm > least:
            self.u.copy_(u)
            self.v.copy_(v)
            self.sigma.fill_(norm)


def _conjugate(p: float) -> float:
    return math.inf if p == 1 else 1.0 if p == math.inf else p / (p - 1)


def _dual(y: Tensor, p: float) -> Tensor:
    """`u` with dual norm 1 and `u . y = |y|_p`."""
    if p == math.inf:
        u = torch.zeros_like(y)
        top = y.abs().argmax()
        u[top] = y[top].sign()
        return u
    power = (y.abs() / y.abs().amax().clamp(min=torch.finfo(y.dtype).tiny)) ** (p - 1)
    u = y.sign() * power
    return u / torch.linalg.vector_norm(u, _conjugate(p)).clamp(min=torch.finfo(y.dtype).tiny)


class _InducedLinear(_Induced, LipschitzLinear):
    pass


class _InducedConv2d(_Induced, LipschitzConv2d):
    pass


class _StoredInducedLinear(_Stored, _InducedLinear):
    pass


class _StoredInducedConv2d(_Stored, _InducedConv2d):
    pass
