"""Layers whose norm as linear maps does not exceed a coefficient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from impflow_zoo.numerics.modes import without_autocast

__all__ = ["LipschitzLayer", "LipschitzLinear", "refresh_norms"]


class LipschitzLayer(nn.Module):
    """A layer with `W / max(1, |W| / coefficient)` in place of its weight `W`.

    The norm of the operator is found by iteration, from below: in training mode whenever the
    weight is normalised; in evaluation mode the vectors `u, v` are brought to convergence once for
    a weight, and again when any entry of it has changed.
    Vectors that attain the norm already stay as they are, so that a loaded layer is bit-equal to
    the saved one.
    Gradients take `u` and `v` as constants and flow through `sigma = u . W v`.

    Sub-classes define the `operator`, how the vectors are found to convergence, `converge`, and how
    they are followed in training, `iterate`.
    """

    weight: nn.Parameter
    bias: nn.Parameter
    u: Tensor
    v: Tensor
    sigma: Tensor
    settled: Tensor  # the weight that the vectors have converged for; not saved
    settled_norm: Tensor  # and the norm that they attain; not saved
    coefficient: float

    def operator(self, weight: Tensor, v: Tensor) -> Tensor:
        """`W v` as a flat vector."""
        raise NotImplementedError(f"{type(self).__name__} has to define its operator")

    def converge(self) -> None:
        """Bring `u`, `v` and `sigma` to convergence."""
        raise NotImplementedError(f"{type(self).__name__} has to define how it converges")

    def iterate(self) -> Tensor | None:
        """Bring `u`, `v` and `sigma` close to convergence, in a training forward.

        Returns:
            `attained()`, if it comes about on the way.
        """
        raise NotImplementedError(f"{type(self).__name__} has to define its iteration")

    def norm_bound(self) -> float:
        """An upper bound of the norm of the normalised operator that can be trusted."""
        raise NotImplementedError(f"{type(self).__name__} has to define its bound")

    @torch.no_grad()
    def settle(self) -> None:
        """Bring the vectors to convergence and remember for which weight that was."""
        self.converge()
        self.settled.copy_(self.weight)
        self.settled_norm.copy_(self.attained())

    def _start(self, plain: nn.Linear | nn.Conv2d, coefficient: float, pixels: int) -> None:
        """Take weight and bias of a layer of torch, and make vectors of zeros."""
        assert plain.bias is not None
        self.coefficient = float(coefficient)
        self.weight, self.bias = (nn.Parameter(p.detach()) for p in (plain.weight, plain.bias))
        outputs, inputs, *_ = self.weight.shape
        self.register_buffer("u", torch.zeros(outputs * pixels))
        self.register_buffer("v", torch.zeros(inputs * pixels))
        self.register_buffer("sigma", torch.zeros(()))
        self._start_unsettled()

    def _start_unsettled(self) -> None:
        """Make the buffers that say what the vectors have converged for: nothing yet."""
        never = torch.full_like(self.weight.detach(), math.nan)
        self.register_buffer("settled", never, persistent=False)
        self.register_buffer("settled_norm", never.new_full((), math.nan), persistent=False)

    @property
    def goes_by_settled(self) -> bool:
        """Whether evaluation uses what was found for the weight before."""
        return True

    def attained(self) -> Tensor:
        """`u . W v`, differentiable in `W`."""
        u, v = self.u, self.v
        if torch.is_grad_enabled():  # the next forward may come before this one's backward
            u, v = u.clone(), v.clone()
        return torch.dot(u, self.operator(self.weight, v))

    def in_use(self, norm: Tensor | None) -> Tensor:
        """The weight shrunk to the coefficient, where its norm exceeds that.

        Arguments:
            norm: what the vectors attain, if it is known.
        """
        norm = self.attained() if norm is None else norm
        return self.weight / (norm / self.coefficient).clamp(min=1)

    def _note_norm(self) -> None:
        """Let `sigma` be the norm that converged vectors attain; rounding does not change it."""
        norm = torch.dot(self.u, self.operator(self.weight, self.v))
        if not _equal_but_for_rounding(norm, self.sigma):
            self.sigma.copy_(norm)

    def extra_repr(self) -> str:
        return f"weight: {tuple(self.weight.shape)}"

    def normalised_weight(self) -> Tensor:
        """The weight in use, with the shape of `weight`."""
        return normalised([self])[0]


def _equal_but_for_rounding(one: Tensor, other: Tensor) -> bool:
    """Whether a norm is another one, up to the rounding of one product."""
    return bool((one - other).abs() <= 16 * torch.finfo(one.dtype).eps * one)


class LipschitzLinear(LipschitzLayer):
    """A linear layer with bounded spectral norm.

    Arguments:
        in_features: size of the input.
        out_features: size of the output.
        coefficient: largest norm allowed; smaller weights are left as they are.

    Example:
        >>> layer = LipschitzLinear(2, 2, coefficient=0.9)
        >>> with torch.no_grad():
        ...     _ = layer.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
        >>> layer.eval().normalised_weight()
        tensor([[0.9000, 0.0000],
                [0.0000, 0.3000]], grad_fn=<DivBackward0>)
    """

    def __init__(self, in_features: int, out_features: int, coefficient: float = 0.97) -> None:
        super().__init__()
        self._start(nn.Linear(in_features, out_features), coefficient, 1)
        if not self.weight.is_meta:  # counted, not used
            with torch.autocast(self.weight.device.type, enabled=False):
                self.converge()

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate the layer on rows with shape `[B, in_features]`."""
        return functional.linear(x, self.normalised_weight(), self.bias)

    def operator(self, weight: Tensor, v: Tensor) -> Tensor:
        return weight @ v

    @torch.no_grad()
    def converge(self) -> None:
        if bool(self.weight.isfinite().all()):
            u, s, vh = torch.linalg.svd(self.weight, full_matrices=False)
            attained = torch.dot(self.u, self.weight @ self.v)
            if not (bool(attained >= s[0]) or _equal_but_for_rounding(s[0], attained)):
                self.u.copy_(u[:, 0])
                self.v.copy_(vh[0])
            self._note_norm()

    def iterate(self) -> Tensor | None:
        """Square `W^T W` eight times: 256 power iterations, from every start at once.

        Power iteration from the vector of the last step would be cheaper. But it does not find
        another singular vector that has overtaken, as the two are orthogonal.
        """
        wide = self.weight.shape[0] < self.weight.shape[1]
        with torch.no_grad():
            weight = self.weight.mT if wide else self.weight
            leading = _leading(weight.mT @ weight)
        image = leading @ self.weight if wide else self.weight @ leading
        with torch.no_grad():
            sigma = torch.linalg.vector_norm(image)
            unit, usable = image / sigma.clamp(min=torch.finfo(sigma.dtype).tiny), sigma < math.inf
            u, v = (leading, unit) if wide else (unit, leading)
            self.u.copy_(torch.where(usable, u, self.u))
            self.v.copy_(torch.where(usable, v, self.v))
            self.sigma.copy_(sigma)
        return torch.dot(unit, image)

    @torch.no_grad()
    def norm_bound(self) -> float:
        """The spectral norm, by singular values in float64, rounding included."""
        (weight,) = normalised([self], training=False)
        return float(torch.linalg.matrix_norm(weight.double(), 2)) * (1 + 1e-12)


def _leading(power: Tensor) -> Tensor:
    """The leading eigenvector of a Gram matrix, as far as 256 power iterations find it."""
    if len(power) <= 8:  # all eigenvectors cost less than the squarings
        return torch.linalg.eigh(power.nan_to_num(0.0, 0.0, 0.0))[1][:, -1]
    tiny = torch.finfo(power.dtype).tiny
    for i in range(8):
        if i % 3 == 0:  # a trace of one keeps the next three squares from under- and overflow
            power = power / power.trace().clamp(min=tiny)
        power = power @ power
    return _unit(power[:, power.diagonal().argmax()])


def _unit(v: Tensor) -> Tensor:
    """`v / |v|`, and 0 for 0."""
    return v / torch.linalg.vector_norm(v).clamp(min=torch.finfo(v.dtype).tiny)


def scaled_affine(
    weight: Tensor, bias: Tensor, before: Tensor | float, after: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Weight and bias of `after * (W (before * x) + b)`.

    Scales are scalars, or vectors where the weight is a matrix.
    """
    if not isinstance(after, Tensor) and after == 1:  # no operator for nothing
        return weight * before, bias
    rows = after.view(-1, 1) if isinstance(after, Tensor) else after
    return weight * (rows * before), bias * after


def normalised(layers: Sequence[LipschitzLayer], *, training: bool | None = None) -> list[Tensor]:
    """The weights in use of some layers, in their own types, autocast or not.

    In evaluation mode the host waits once for all layers, to see whether any weight has changed.

    Arguments:
        layers: the layers.
        training: iterate, or not; None is what the mode of each layer says.
    """
    with without_autocast(*layers):
        evaluated, iterated = [], {}
        for layer in layers:
            if layer.training if training is None else training:
                iterated[layer] = layer.iterate()
            elif layer.goes_by_settled:
                evaluated.append(layer)
                if layer.settled.device != layer.weight.device:  # assigned to a layer on "meta"
                    with torch.inference_mode(mode=False):
                        layer._start_unsettled()
        with torch.no_grad():
            norms = {layer: layer.attained() for layer in evaluated}
            for layer in _unsettled(norms):
                layer.settle()
                norms[layer] = layer.attained()
        if torch.is_grad_enabled():  # saves as much when torch.utils.checkpoint comes again
            norms = {}
        return [layer.in_use({**norms, **iterated}.get(layer)) for layer in layers]


@torch.no_grad()
def _unsettled(norms: Mapping[LipschitzLayer, Tensor]) -> list[LipschitzLayer]:
    """Layers to settle: the weight has changed, or the vectors no longer attain the recorded norm.

    Vectors may have been loaded or averaged.

    Arguments:
        norms: what their vectors attain.
    """
    then = [t.flatten() for layer in norms for t in (layer.settled, layer.settled_norm)]
    now = [t.flatten() for layer, norm in norms.items() for t in (layer.weight, norm)]
    if not norms or torch.equal(torch.cat(now), torch.cat(then)):
        return []
    return [
        layer
        for layer, norm in norms.items()
        if not (
            _equal_but_for_rounding(norm, layer.settled_norm)
            and torch.equal(layer.weight, layer.settled)
        )
    ]


def refresh_norms(module: nn.Module) -> None:
    """Bring the power vectors of every layer to convergence (before saving, say)."""
    with without_autocast(module):
        for layer in module.modules():
            if isinstance(layer, LipschitzLayer):
                layer.settle()
