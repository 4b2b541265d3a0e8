"""Layers between spaces of other norms than 2, and layers that keep the vectors they come with.

Published weights need both. A network that starts in one p-norm and ends in another is no
contraction in either by its layers' norms alone: what is certified of these layers is their 2-norm.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from impflow_zoo.lipschitz.convolutions import LipschitzConv2d
from impflow_zoo.lipschitz.norms import ROUNDED_UP, LipschitzLayer, LipschitzLinear

__all__ = ["PublishedConv2d", "PublishedLinear", "Space", "has_closed_form", "spaces"]

Space = tuple[float, float]  # the p-norms that a layer maps from and to
_ORDERS = {"1": 1.0, "2": 2.0, "f": math.inf, "p": math.nan}


def spaces(norm: str, layers: int) -> list[Space]:
    """The p-norms that each layer maps from and to.

    Arguments:
        norm: `"2"`, `"inf"`, or one character for each space, first to last: `1`, `2`, `f` for
            infinity, or all of them `p` for orders that come with the weights.
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
    return list(itertools.pairwise(_ORDERS[order] for order in orders))


def has_closed_form(space: Space) -> bool:
    """Whether the norm needs no power vectors."""
    return space[0] == 1 or space in ((2, math.inf), (math.inf, math.inf))


class PublishedLayer(LipschitzLayer):
    """A layer from a p-norm to a q-norm: what `PublishedLinear` and `PublishedConv2d` share.

    Where the norm has a closed form, every row (or column, from the 1-norm) is shrunk on its own
    where it has to be. Else it is found by nonlinear power iteration, from below: the iteration may
    end in a local maximum, so several are tried.

    References:
        The power method for l^p norms (Boyd, 1974)
        https://doi.org/10.1016/0024-3795(74)90029-9
    """

    space: Space = (2.0, 2.0)
    stored = False
    whole = False
    orders: Tensor

    def start(self, space: Space, *, stored: bool = False, whole: bool = False) -> None:
        """Say what the layer is for, before weights are loaded.

        Arguments:
            space: the p-norms.
            stored: use `u` and `v` as they are outside of training, converged or not.
            whole: shrink the whole matrix by its norm, where that has a closed form.
        """
        self.space, self.stored, self.whole = space, stored, whole
        if has_closed_form(space):
            for name in ("u", "v", "sigma"):  # not needed
                self.register_buffer(name, getattr(self, name), persistent=False)
        elif space != (2, 2):
            learned = math.isnan(space[0])  # orders that come with the weights
            orders = torch.tensor((2.0, 2.0) if learned else space)
            self.register_buffer("orders", orders, persistent=learned)
            self.converge()

    def attained(self) -> Tensor:
        if has_closed_form(self.space):
            return self._slices(self.weight).amax()
        return super().attained()

    def in_use(self, norm: Tensor | None) -> Tensor:
        if has_closed_form(self.space):
            norms = self.attained() if self.whole else self._slices(self.weight)
            return self.weight / (norms / self.coefficient).clamp(min=1)
        if not self.stored:
            return super().in_use(norm)
        # The published code divides by a number in float32, whatever the type of the weight.
        factor = (self.attained() / self.coefficient).float().to(self.weight.dtype)
        weight = self.weight / factor.clamp(min=1)
        images = weight.dim() == 4
        return weight.contiguous(memory_format=torch.channels_last) if images else weight

    @torch.no_grad()
    def converge(self) -> None:
        if self.u.is_meta or has_closed_form(self.space) or (self.stored and bool(self.u.any())):
            return
        if self.space == (2, 2):
            super().converge()
            return
        self.iterate()
        generator = torch.Generator().manual_seed(0)
        for _ in range(10):
            v = torch.randn(len(self.v), generator=generator).to(self.v)
            self._climb(v, least=float(self.sigma))

    @torch.no_grad()
    def iterate(self) -> None:
        if self.space == (2, 2):
            super().iterate()
        elif not has_closed_form(self.space):
            self._climb(self.v if bool(self.v.any()) else torch.randn_like(self.v), -math.inf)

    def _slices(self, weight: Tensor) -> Tensor:
        """The norms of rows or columns, or of the kernels of channels."""
        domain, codomain = self.space
        order = codomain if domain == 1 else {2.0: 2.0, math.inf: 1.0}[domain]
        others = [i for i in range(weight.dim()) if i != int(domain == 1)]
        norms: Tensor = torch.linalg.vector_norm(weight, order, dim=others, keepdim=True)
        return norms

    def _climb(self, v: Tensor, least: float) -> None:
        """Take the vectors at the local maximum above `v`, if the norm there is over `least`."""
        domain, codomain = self.orders.tolist()
        if not bool(self.weight.isfinite().all() and self.weight.any()):
            return
        norm = -math.inf
        for _ in range(200):
            u = _dual(self.operator(self.weight, v), codomain)
            back = self.adjoint(self.weight, u)
            v = _dual(back, _conjugate(domain))
            norm, before = float(torch.dot(back, v)), norm
            if norm - before <= 1e-6 * norm:
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


class PublishedLinear(PublishedLayer, LipschitzLinear):
    """A linear layer between p-norms."""

    @torch.no_grad()
    def norm_bound(self) -> float:
        """The 2-norm in float64; the norm itself of a layer whose whole matrix is shrunk by it."""
        if not self.whole:
            return super().norm_bound()
        return float(self._slices(self.evaluated_weight()).amax()) * ROUNDED_UP


class PublishedConv2d(PublishedLayer, LipschitzConv2d):
    """A convolution between p-norms."""
