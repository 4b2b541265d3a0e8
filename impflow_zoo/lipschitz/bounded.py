"""The base class of nets with a bounded Lipschitz constant."""

from __future__ import annotations

import math
import weakref
from collections.abc import MutableMapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from impflow_zoo.lipschitz.activations import contracts, folded, make_activation, slopes, watched
from impflow_zoo.lipschitz.bound_layers import BoundLayers, Function
from impflow_zoo.lipschitz.norms import LipschitzLayer, Scale, norms_of, spread
from impflow_zoo.numerics.modes import recording
from impflow_zoo.numerics.settings import is_real, is_whole

# For each net what its weights depend on, and what evaluation without gradients made of that. A
# global map, so that copies and pickles of nets are without it.
_KEPT: MutableMapping[nn.Module, tuple[Any, tuple[BoundLayers, list[Scale]]]]
_KEPT = weakref.WeakKeyDictionary()


class BoundedNet(nn.Module):
    """Layers of bounded norm with an activation between them.

    Contexts go through linear maps and are added before each activation, one number for each
    feature or channel. Sub-classes make `layers`.

    A learned frequency `w` of a feature or channel replaces `f(t)` by `f(w t) / w`. The slopes and
    the bounds stay the same, and both factors are multiplied into the weights.
    """

    first: nn.Module | None  # an activation at the start
    activations: nn.ModuleList
    log_frequencies: nn.ParameterList  # of these activations in order, or none
    layers: nn.ModuleList
    context_layers: nn.ModuleList
    lipschitz: float | None  # the bound in the 2-norm; None if none is known in advance

    def __init__(
        self, shape: tuple[int, ...], lipschitz: float, context_features: int | None
    ) -> None:
        super().__init__()
        self.shape = shape
        if not (is_real(lipschitz) and 0 < lipschitz < math.inf):
            raise ValueError(f"lipschitz={lipschitz!r}: a positive number is needed")
        if not (context_features is None or (is_whole(context_features) and context_features >= 0)):
            raise ValueError(f"context_features={context_features!r}: a size or None is needed")
        self.lipschitz, self.context_features = float(lipschitz), context_features

    def start(
        self,
        kind: str | type[nn.Module],
        widths: Sequence[int],
        frequency: float | None = None,
        *,
        first: int | None = None,
    ) -> None:
        """Make the activations after layers of these widths, and one of width `first` before."""
        size = self.context_features
        self.context_layers = nn.ModuleList(nn.Linear(size, width) for width in widths if size)
        self.first = None if first is None else make_activation(kind, first)
        self.activations = nn.ModuleList(make_activation(kind, width) for width in widths)
        self.log_frequencies = nn.ParameterList()
        if frequency is None:
            return
        if not (is_real(frequency) and 1e-3 <= frequency <= 1e3):
            raise ValueError(f"frequency={frequency!r}: a number from 0.001 to 1000 is needed")
        if slopes(make_activation(kind)) is None:
            raise ValueError(f"frequency={frequency}: {kind!r} is not elementwise, use None")
        for width in (*(() if first is None else (first,)), *widths):
            self.log_frequencies.append(torch.full((width,), math.log(frequency)))

    def check_context(self, context: Tensor | None, rows: int | None = None) -> None:
        """Refuse a context that is missing, of another shape, or of no floating type."""
        size = self.context_features
        if not size:
            return
        if context is None:
            raise ValueError(f"this net needs a context of shape [B, {size}]")
        rows = len(context) if rows is None else rows
        if context.shape != (rows, size):
            raise ValueError(
                f"context of shape {tuple(context.shape)}: for {rows} rows this net takes "
                f"[{rows}, {size}]"
            )
        if not context.is_floating_point():
            raise ValueError(f"context of type {context.dtype}: floating point is needed")

    def bounded_layers(self) -> list[LipschitzLayer]:
        """The layers, as what they are."""
        return cast(list[LipschitzLayer], list(self.layers))

    def weights_in_use(
        self, rows: Sequence[Scale], columns: Sequence[Scale], *, training: bool | None = None
    ) -> list[Tensor]:
        """The weights of all layers, times scales of their rows and of their columns."""
        layers = self.bounded_layers()
        each = zip(layers, norms_of(layers, training=training), rows, columns, strict=True)
        return [layer.in_use(norm, spread(row, 1) * column) for layer, norm, row, column in each]

    def folded(self) -> list[tuple[Function, Scale, Scale]]:
        """Each activation as a function, and the scales before and after it, `first` in front."""
        first = [] if self.first is None else [self.first]
        found = [folded(activation) for activation in (*first, *self.activations)]
        if not self.log_frequencies:
            return found
        # Beyond 8 products of frequencies leave float32. `hardtanh` is a cheaper `clamp`.
        w = nn.functional.hardtanh(torch.cat([*self.log_frequencies]), -8, 8).exp()
        each = (t.split([len(log) for log in self.log_frequencies]) for t in (w, 1 / w))
        return [(f, a * w, b * v) for (f, a, b), w, v in zip(found, *each, strict=True)]

    def mixing(self) -> list[tuple[Tensor, Tensor]] | None:
        """The scalars by which a layer appends to its input, see `BoundLayers`; or None."""
        return None

    def at(self, context: Tensor | None, *, training: bool | None = None) -> BoundLayers:
        """The net at a context; `training` as in `norms_of`.

        In evaluation without gradients its weights are kept until any of `_dependencies` changes.
        """
        layers = self.bounded_layers()
        for i, layer in enumerate(layers):
            if watched(layer) or type(layer).forward is not LipschitzLayer.forward:
                raise ValueError(
                    f"layer {i} has hooks or a replaced forward, which do not run: "
                    "put them on the net (torch.nn.utils.prune.remove makes a pruning permanent)"
                )
        if (
            torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or any(layer.training if training is None else training for layer in layers)
            or any(p.is_inference() or not isinstance(p, nn.Parameter) for p in self.parameters())
        ):
            bound, befores = self._without_context(training)
        else:
            now, known = self._dependencies(), _KEPT.get(self)
            if known is None or known[0][0] != now[0] or not known[0][1].equal(now[1]):
                with recording(mode=False):  # inference tensors could not enter graphs later
                    made = self._without_context(training)
                    known = self._dependencies(), made
                if not any(map(watched, self.modules())):  # a hook may hold the net
                    _KEPT[self] = known
            bound, befores = known[1]
        if context is None or not self.context_layers:
            return bound
        each = zip(bound.biases, self.context_layers, befores, strict=False)
        biases = [bias + shift(context).to(bias.dtype) * before for bias, shift, before in each]
        return bound.having(bound.weights, [*biases, bound.biases[-1]])

    def _dependencies(self) -> tuple[list[Any], Tensor]:
        """What `_without_context` reads (sub-classes add to it): values, and all tensors as one."""
        activations = [a for a in (self.first, *self.activations) if a is not None]
        scales = [part for pair in self.mixing() or () for part in pair]
        parts = [*(part for a in activations for part in folded(a)), *scales, *self.log_frequencies]
        for layer in self.bounded_layers():
            parts += [*layer.state(), layer.bias, layer.coefficient]
        tensors = torch.cat([part.flatten() for part in parts if isinstance(part, Tensor)])
        others = [part for part in parts if not isinstance(part, Tensor)]
        return [self.lipschitz, tensors.dtype, tensors.device, *others], tensors

    def _without_context(self, training: bool | None) -> tuple[BoundLayers, list[Scale]]:
        """The net at no context, its weights normalised once, and the scales of its biases."""
        first, mixing, inner = None, self.mixing(), self.folded()
        rows, columns = [*(before for _, before, _ in inner), 1.0], [1.0, *(b for _, _, b in inner)]
        if self.first is not None:
            first = inner[0][0], spread(rows[0], len(self.shape) - 1)
            del inner[0], rows[0], columns[0]
        if mixing is not None:
            mixing = [(a, b * own) for (a, b), own in zip(mixing, columns[1:], strict=True)]
            columns = [1.0] * len(rows)  # `mixing` holds the scales after activations
        weights = self.weights_in_use(rows, columns, training=training)
        *hidden, last = (layer.bias for layer in self.bounded_layers())
        biases = [*(bias * before for bias, before in zip(hidden, rows, strict=False)), last]
        functions = [f for f, _, _ in inner]
        return BoundLayers(self.shape, functions, weights, biases, first, mixing), rows

    def bind(self, context: Tensor | None) -> BoundLayers | None:
        """The net at a context; None if it has hooks, which run where it is called."""
        if watched(self):
            return None
        self.check_context(context)
        return self.at(context)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Evaluate the net.

        Arguments:
            x: input with shape `[B, *shape]`.
            context: context with shape `[B, context_features]`, needed if the net has one.

        Raises:
            ValueError: if the input or the context is missing or has the wrong shape.
        """
        if x.shape[1:] != self.shape:
            expected = ", ".join(map(str, self.shape))
            raise ValueError(f"input of shape {tuple(x.shape)}: this net takes [B, {expected}]")
        self.check_context(context, len(x))
        return self.at(context).in_graph(x)

    def certificate(self) -> float | None:
        """Upper bound on the net's Lipschitz constant at its current weights, in the 2-norm.

        None if there is no proof: weights are not finite, or an activation has hooks or is not one
        whose constant is known to be at most 1.
        """
        activations = [a for a in (self.first, *self.activations) if a is not None]
        finite = all(bool(p.isfinite().all()) for p in self.parameters())
        return self.bound() if finite and all(map(contracts, activations)) else None

    def bound(self) -> float:
        """The certificate of finite weights and activations with a constant of at most 1."""
        return math.prod(layer.norm_bound() for layer in self.bounded_layers())


def check_sizes(**sizes: object) -> None:
    """Refuse sizes, or tuples of them, that are not whole and positive, by a `ValueError`."""
    for size in sizes.values():
        each = size if isinstance(size, tuple) else (size,)
        if not all(is_whole(n) and n >= 1 for n in each):
            given = ", ".join(f"{name}={value!r}" for name, value in sizes.items())
            raise ValueError(f"{given}: positive sizes are needed")
