"""Layers whose induced norm does not exceed a coefficient."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from impflow_zoo.numerics.precision import without_autocast

__all__ = [
    "ROUNDED_UP",
    "LipschitzLayer",
    "LipschitzLinear",
    "held_weights",
    "refresh_norms",
    "scaled_affine",
]

ROUNDED_UP = 1 + 1e-12  # what makes a bound of a norm that was computed in float64
_SQUARINGS = 8  # of the Gram matrix, in a training forward
_FEW = 8  # rows or columns up to which all eigenvectors cost less than the squarings
_ATTAINED = 16.0  # how many eps u . W v may lie below the norm in vectors that are kept


class _Held(NamedTuple):
    """A normalised weight within `held_weights`.

    Arguments:
        thread: that computed it: another one may record no gradient, or into another graph.
        weight: with its graph.
        value: without it: compiled code asks for the `.grad` of what it holds, which torch warns of
            where there is a graph.
    """

    thread: int
    weight: Tensor
    value: Tensor


class LipschitzLayer(nn.Module):
    """A layer with `W / max(1, |W| / coefficient)` in place of its weight `W`.

    The norm of the operator is found by iteration, from below: in training mode every use of the
    layer iterates (within `held_weights`, once); in evaluation mode the vectors `u, v` are
    brought to convergence once for a weight, and again when any entry of it has changed.
    Vectors that attain the norm already stay as they are, so that a loaded layer is bit-equal to
    the saved one.
    Gradients take `u` and `v` as constants and flow through `sigma = u . W v`.

    Sub-classes define the operator and its adjoint, `operator` and `adjoint`, how the vectors are
    found to convergence, `converge`, and how they are followed in training, `_iterate`.
    """

    weight: nn.Parameter
    u: Tensor
    v: Tensor
    sigma: Tensor
    settled: Tensor  # the weight that the vectors have converged for; not saved
    settled_norm: Tensor  # and the norm that they attain; not saved
    coefficient: float

    def operator(self, weight: Tensor, v: Tensor) -> Tensor:
        """`W v` as a flat vector."""
        raise NotImplementedError(f"{type(self).__name__} has to define its operator")

    def adjoint(self, weight: Tensor, u: Tensor) -> Tensor:
        """`W^T u` as a flat vector."""
        raise NotImplementedError(f"{type(self).__name__} has to define its adjoint")

    def converge(self) -> None:
        """Bring `u`, `v` and `sigma` to convergence."""
        raise NotImplementedError(f"{type(self).__name__} has to define how it converges")

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles take along: not a weight that is held for a call."""
        return {key: value for key, value in self.__dict__.items() if key != "_held"}

    @torch.no_grad()
    def settle(self) -> None:
        """Bring the vectors to convergence and remember for which weight that was."""
        self.converge()
        if "settled" in self._buffers:  # norms in closed form have none
            self.settled.copy_(self.weight)
            self.settled_norm.copy_(self._attained())

    def _start_unsettled(self) -> None:
        """Make the buffers that say what the vectors have converged for: nothing yet."""
        never = torch.full_like(self.weight.detach(), math.nan)
        self.register_buffer("settled", never, persistent=False)
        self.register_buffer("settled_norm", never.new_full((), math.nan), persistent=False)

    def _is_settled(self) -> bool:
        """Whether the vectors have converged for the weight as it is."""
        if self.settled.device != self.weight.device:  # weights were assigned to a layer on "meta"
            with torch.inference_mode(mode=False):
                self._start_unsettled()
        return torch.equal(self.weight, self.settled)

    def _still_attains(self, norm: Tensor) -> bool:
        """Whether that is what they attained then: vectors are loaded and averaged, too."""
        slack = _ATTAINED * torch.finfo(norm.dtype).eps
        return bool((norm - self.settled_norm).abs() <= slack * norm)

    def _attained(self) -> Tensor:
        """`u . W v`, differentiable in `W`."""
        # Clones: the buffers may be overwritten by the next forward before this one's backward.
        return torch.dot(self.u.clone(), self.operator(self.weight, self.v.clone()))

    def _note_norm(self) -> None:
        """Let `sigma` be the norm that converged vectors attain; rounding does not change it."""
        norm = torch.dot(self.u, self.operator(self.weight, self.v))
        slack = _ATTAINED * torch.finfo(norm.dtype).eps
        if not bool((norm - self.sigma).abs() <= slack * norm):
            self.sigma.copy_(norm)

    def norm_bound(self) -> float:
        """An upper bound of the induced norm of the normalised operator that can be trusted."""
        raise NotImplementedError(f"{type(self).__name__} has to define its bound")

    def normalised_weight(self) -> Tensor:
        """The weight in use, with the shape of `weight`."""
        held: _Held | None = self.__dict__.get("_held")
        recording = torch.is_grad_enabled()
        if torch.compiler.is_compiling():  # such code cannot ask for its thread: numbers are safe
            return self.fresh_weight() if held is None or recording else held.value
        if held is None or held.thread != get_ident():
            return self.fresh_weight()
        return held.weight if recording else held.value

    def evaluated_weight(self) -> Tensor:
        """The weight that is used in evaluation, in float64: what bounds are proved for."""
        training, self.training = self.training, False
        try:
            return self.normalised_weight().double()
        finally:
            self.training = training

    def fresh_weight(self) -> Tensor:
        """The normalised weight computed anew, in the weight's own type, autocast or not."""
        with torch.autocast(self.weight.device.type, enabled=False):
            return self._normalise()

    def _normalise(self) -> Tensor:
        if self.training:
            with torch.no_grad():
                self._iterate()
        elif not self._is_settled():
            self.settle()
        sigma = self._attained()
        if not self.training and not self._still_attains(sigma.detach()):
            self.settle()
            sigma = self._attained()
        return self.weight / (sigma / self.coefficient).clamp(min=1)

    def _iterate(self) -> None:
        """Bring `u`, `v` and `sigma` close to convergence, in a training forward."""
        raise NotImplementedError(f"{type(self).__name__} has to define its iteration")


class LipschitzLinear(LipschitzLayer):
    """A linear layer from the p-norm `domain` to the p-norm `codomain` with bounded norm.

    Arguments:
        in_features: size of the input.
        out_features: size of the output.
        coefficient: largest norm allowed; smaller weights are left as they are.
        domain: p of the input norm, 1, 2 or `inf`.
        codomain: p of the output norm. Closed forms exist for `domain = 1` and
            `codomain = inf`; the pair `(2, 2)` is the spectral norm. Others raise.

    Example:
        >>> layer = LipschitzLinear(2, 2, coefficient=0.9)
        >>> with torch.no_grad():
        ...     _ = layer.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
        >>> layer.eval().normalised_weight()
        tensor([[0.9000, 0.0000],
                [0.0000, 0.3000]], grad_fn=<DivBackward0>)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        coefficient: float = 0.97,
        *,
        domain: float = 2.0,
        codomain: float = 2.0,
    ) -> None:
        super().__init__()
        if domain != 1 and codomain != math.inf and (domain, codomain) != (2, 2):
            raise ValueError(
                f"no closed form for the norm from p={domain} to p={codomain}: "
                "use (2, 2), domain 1, or codomain inf"
            )
        self.coefficient = float(coefficient)
        self.domain, self.codomain = float(domain), float(codomain)
        linear = nn.Linear(in_features, out_features)
        self.weight = nn.Parameter(linear.weight.detach())
        self.bias = nn.Parameter(linear.bias.detach())
        if self.spectral:
            self.register_buffer("u", torch.zeros(out_features))
            self.register_buffer("v", torch.zeros(in_features))
            self.register_buffer("sigma", torch.zeros(()))
            self._start_unsettled()
            if not self.weight.is_meta:  # counted, not used
                with torch.autocast(self.weight.device.type, enabled=False):
                    self.converge()

    def _iterate(self) -> None:
        """Square `W^T W` eight times: 256 power iterations, from every start at once.

        Power iteration from the last step's vector would be cheaper, but is blind to another
        singular vector that has overtaken it, orthogonal as that is to it.
        """
        weight = self.weight.detach()
        wide = weight.shape[0] < weight.shape[1]
        power = weight @ weight.mT if wide else weight.mT @ weight
        few = len(power) <= _FEW and bool(power.isfinite().all())
        leading = torch.linalg.eigh(power)[1][:, -1] if few else _leading(power)
        v = functional.normalize(leading @ weight, dim=0) if wide else leading
        u = functional.normalize(weight @ v, dim=0)
        usable = u.isfinite().all() & v.isfinite().all()
        self.u.copy_(torch.where(usable, u, self.u))
        self.v.copy_(torch.where(usable, v, self.v))
        self.sigma.copy_(torch.dot(self.u, weight @ self.v))

    @property
    def spectral(self) -> bool:
        """Whether the norm is the spectral one, which needs power iteration."""
        return self.domain == self.codomain == 2

    def forward(
        self, x: Tensor, input_scale: Tensor | float = 1.0, output_scale: Tensor | float = 1.0
    ) -> Tensor:
        """`output_scale * linear(input_scale * x)`, the weights scaled instead of the rows.

        Arguments:
            x: rows with shape `[B, in_features]`.
            input_scale: a scalar, or a factor for each of `in_features`.
            output_scale: a scalar, or a factor for each of `out_features`.
        """
        return functional.linear(x, *self.scaled(input_scale, output_scale))

    def scaled(
        self, input_scale: Tensor | float = 1.0, output_scale: Tensor | float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Weight and bias of `output_scale * linear(input_scale * x)`."""
        return scaled_affine(self.normalised_weight(), self.bias, input_scale, output_scale)

    def operator(self, weight: Tensor, v: Tensor) -> Tensor:
        return weight @ v

    def adjoint(self, weight: Tensor, u: Tensor) -> Tensor:
        return u @ weight

    @torch.no_grad()
    def converge(self) -> None:
        if self.spectral and bool(self.weight.isfinite().all()):
            u, s, vh = torch.linalg.svd(self.weight, full_matrices=False)
            slack = _ATTAINED * torch.finfo(s.dtype).eps
            if not bool(torch.dot(self.u, self.weight @ self.v) >= s[0] * (1 - slack)):
                self.u.copy_(u[:, 0])
                self.v.copy_(vh[0])
            self._note_norm()

    def _normalise(self) -> Tensor:
        if self.spectral:
            return super()._normalise()
        return self.weight / (self._closed_form(self.weight) / self.coefficient).clamp(min=1)

    def _closed_form(self, weight: Tensor) -> Tensor:
        if self.domain == 1:  # the vertices of the 1-ball are the columns
            return torch.linalg.vector_norm(weight, ord=self.codomain, dim=0).amax()
        dual = {2.0: 2.0, math.inf: 1.0}[self.domain]
        return torch.linalg.vector_norm(weight, ord=dual, dim=1).amax()

    @torch.no_grad()
    def norm_bound(self) -> float:
        """The induced norm, by singular values or closed form in float64, rounding included."""
        weight = self.evaluated_weight()
        norm = torch.linalg.matrix_norm(weight, 2) if self.spectral else self._closed_form(weight)
        return float(norm) * ROUNDED_UP

    def extra_repr(self) -> str:
        out_features, in_features = self.weight.shape
        return (
            f"{in_features}, {out_features}, coefficient={self.coefficient:g}, "
            f"domain={self.domain:g}, codomain={self.codomain:g}"
        )


def scaled_affine(
    weight: Tensor, bias: Tensor, before: Tensor | float, after: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Weight and bias of `after * (W (before * x) + b)`; scales are scalars or vectors."""
    if isinstance(after, Tensor) and after.numel() > 1:
        return weight * after[:, None] * before, bias * after
    factor = before * after
    if not (isinstance(factor, float) and factor == 1.0):
        weight = weight * factor
    if not (isinstance(after, float) and after == 1.0):
        bias = bias * after
    return weight, bias


def _leading(power: Tensor) -> Tensor:
    """The leading eigenvector of a Gram matrix, as far as 256 power iterations find it."""
    tiny = torch.finfo(power.dtype).tiny
    for i in range(_SQUARINGS):
        if i % 2 == 0:  # a trace of one keeps the next two squares far from under- and overflow
            power = power / power.trace().clamp(min=tiny)
        power = power @ power
    return functional.normalize(power[:, power.diagonal().argmax()], dim=0)


@contextmanager
def held_weights(*nets: nn.Module) -> Iterator[None]:
    """Compute each normalised weight once, and use it for every evaluation within the block.

    The weights are those of this thread; another one that uses the nets meanwhile computes its own.
    Layers with hooks that run first (`torch.nn.utils.prune`) may get another weight by them, and
    compute theirs in every evaluation.
    """
    thread, gradient = get_ident(), torch.is_grad_enabled()
    # Within a block's call another one may run: `torch.utils.checkpoint` repeats it there. What is
    # held for that call comes back afterwards; what another thread holds is never kept.
    before: dict[LipschitzLayer, _Held | None] = {}
    for layer in (layer for net in nets for layer in net.modules()):
        if isinstance(layer, LipschitzLayer) and not layer._forward_pre_hooks:
            held: _Held | None = layer.__dict__.get("_held")
            if held is None or held.thread == thread:
                before.setdefault(layer, held)
    try:
        # Tensors made in inference mode could not enter the graphs that log-dets are taken from.
        with torch.inference_mode(mode=False), torch.set_grad_enabled(gradient):
            for layer in before:
                weight = layer.fresh_weight()
                layer.__dict__["_held"] = _Held(thread, weight, weight.detach())
        yield
    finally:
        for layer, outer in before.items():
            held = layer.__dict__.get("_held")
            if held is not None and held.thread == thread:
                layer.__dict__.pop("_held", None)
                if outer is not None:
                    layer.__dict__["_held"] = outer


def refresh_norms(module: nn.Module) -> None:
    """Bring the power vectors of every layer to convergence (before saving, say)."""
    with without_autocast(module):
        for layer in module.modules():
            if isinstance(layer, LipschitzLayer):
                layer.settle()
