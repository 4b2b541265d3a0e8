"""The base class of nets with a bounded Lipschitz constant.

The constant of a composition is at most the product of the constants of its parts, whatever the
order of layers of norm `c_i` and of activations with slopes in [-1, 1]: `Lip(g) <= c_1 ... c_n`.
Biases, and contexts that are added, do not count. A factor that stands beside an activation belongs
to the weights beside it: `f(t) = b s(a t)` between `W_2` and `W_1` is `s` between `W_2 b` and `a
W_1`. So a net is folded into matrices, biases and plain functions once per call.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from impflow_zoo.lipschitz.activations import (
    Scaled,
    contracts,
    make_activation,
    scaled_function,
    slopes,
    watched,
)
from impflow_zoo.lipschitz.folded_layers import FoldedLayers, Function
from impflow_zoo.lipschitz.kept import Kept, Sources, is_ours, sources
from impflow_zoo.lipschitz.norms import (
    LipschitzLayer,
    Scale,
    SpectralLayer,
    is_replaced,
    norms_of,
    spread,
)
from impflow_zoo.numerics.finite import blaming_weights
from impflow_zoo.numerics.folded import FoldedModule, FoldedNet
from impflow_zoo.numerics.modes import is_plain
from impflow_zoo.numerics.settings import is_real, is_whole

__all__ = ["LipschitzNet"]


class LipschitzNet(nn.Module):
    """Layers of bounded norm with an activation between them.

    Contexts go through linear maps and are added before each activation, one number for each
    feature or channel. Sub-classes make `layers`.

    A call multiplies all factors into the weights once, and does not call the layers. In evaluation
    the weights are kept as long as no gradient flows to the net and nothing in it changes; those of
    classes that are not of this package are not kept. If a layer has hooks, such as those of
    `torch.nn.utils.prune`, or another `forward`, the net calls its layers one by one.

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
        self.kept: Kept[tuple[FoldedLayers, list[Scale]]] = Kept()

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

    def lipschitz_layers(self) -> list[LipschitzLayer]:
        """The layers, typed as such."""
        return cast(list[LipschitzLayer], list(self.layers))

    def weights_in_use(
        self, rows: Sequence[Scale], columns: Sequence[Scale], *, training: bool | None = None
    ) -> list[Tensor]:
        """The weights of all layers, times scales of their rows and of their columns.

        Arguments:
            rows, columns: a number, or a vector `[out]` or `[in]`, for each layer.
            training: as in `norms_of`.

        Returns:
            A matrix `[out, in]`, or a kernel `[out, in, k, k]`, for each layer.
        """
        layers = cast(list[SpectralLayer], self.lipschitz_layers())
        norms = norms_of(layers, training=training)
        parts = zip(layers, norms, rows, columns, strict=True)
        return [layer.in_use(norm, spread(row, 1) * column) for layer, norm, row, column in parts]

    def frequencies(self) -> Iterator[tuple[Scale, Scale]]:
        """`w` and `1 / w` of each activation, `first` in front; ones if none are learned."""
        if not self.log_frequencies:
            return itertools.repeat((1.0, 1.0))
        # Beyond 8 products of frequencies leave float32. `hardtanh` is a cheaper `clamp`.
        w = nn.functional.hardtanh(torch.cat(list(self.log_frequencies)), -8, 8).exp()
        sizes = [len(log) for log in self.log_frequencies]
        return zip(w.split(sizes), (1 / w).split(sizes), strict=True)

    def scaled_functions(self) -> list[tuple[Function, Scale, Scale]]:
        """Each activation as a function, and the scales before and after it, `first` in front."""
        first = [] if self.first is None else [self.first]
        functions = [scaled_function(activation) for activation in (*first, *self.activations)]
        if not self.log_frequencies:
            return functions
        pairs = zip(functions, self.frequencies(), strict=True)
        return [(f, a * w, b * v) for (f, a, b), (w, v) in pairs]

    def mixing(self) -> list[tuple[Tensor, Tensor]] | None:
        """The scalars, of shape `[]`, by which a layer appends to its input; or None.

        See `FoldedLayers`.
        """
        return None

    def at(self, context: Tensor | None, *, training: bool | None = None) -> FoldedLayers:
        """The net at a context, without its layers' hooks.

        Arguments:
            context: `[B, C]`; None for a net without one.
            training: as in `norms_of`.
        """
        make, origin = partial(self._without_context, training), self._sources(training)
        with blaming_weights(self):
            folded, befores = make() if origin is None else self.kept.get(origin, make)
        if context is None or not self.context_layers:
            return folded
        triples = zip(folded.biases, self.context_layers, befores, strict=False)
        biases = [bias + shift(context).to(bias.dtype) * before for bias, shift, before in triples]
        return folded.shifted([*biases, folded.biases[-1]])

    def _sources(self, training: bool | None) -> Sources | None:
        """What the weights depend on; None if they cannot be kept."""
        recorded = torch.is_grad_enabled()
        for layer in self.lipschitz_layers():
            iterated = layer.training if training is None else training
            if iterated or (recorded and layer.bias.requires_grad):  # as in most nets that train
                return None
        return sources(self, (LipschitzNet, LipschitzLayer, Scaled))

    def _without_context(self, training: bool | None) -> tuple[FoldedLayers, list[Scale]]:
        """The net at no context, its weights normalised once, and the scales of its biases."""
        first, mixing, inner = None, self.mixing(), self.scaled_functions()
        rows, columns = [*(before for _, before, _ in inner), 1.0], [1.0, *(b for _, _, b in inner)]
        if self.first is not None:
            first = inner[0][0], spread(rows[0], len(self.shape) - 1)
            del inner[0], rows[0], columns[0]
        if mixing is not None:
            mixing = [(a, b * own) for (a, b), own in zip(mixing, columns[1:], strict=True)]
            columns = [1.0] * len(rows)  # `mixing` holds the scales after activations
        weights = self.weights_in_use(rows, columns, training=training)
        *hidden, last = (layer.bias for layer in self.lipschitz_layers())
        biases = [*(bias * before for bias, before in zip(hidden, rows, strict=False)), last]
        functions = [f for f, _, _ in inner]
        return FoldedLayers(self.shape, functions, weights, biases, first, mixing), rows

    def fold(self, context: Tensor | None) -> FoldedNet:
        """The net at a context, in the form of its class; as it is called if it has hooks.

        Arguments:
            context: contexts with shape `[B, context_features]`, or None. A net without
                `context_features` ignores them.

        Returns:
            A `FoldedNet` from `[B, *shape]` to the same shape.

        Raises:
            ValueError: if the context is missing, or of the wrong shape or type.
            NotFiniteError: in evaluation, if the norm of a weight overflows.
        """
        if watched(self) or any(map(is_replaced, self.lipschitz_layers())):
            return FoldedModule(self, context)
        self.check_context(context)
        plain = self.at(context)
        # Autocast rounds operations of torch alone; transforms and compilers know no others.
        narrow = torch.is_autocast_enabled(plain.weights[0].device.type)
        return plain if narrow or is_plain() else self.form(plain)

    def form(self, plain: FoldedLayers) -> FoldedLayers:
        """The form in which a block evaluates and differentiates the net."""
        return plain

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Evaluate the net.

        Arguments:
            x: input with shape `[B, *shape]`.
            context: context with shape `[B, context_features]`, needed if the net has one.

        Returns:
            `g(x)` with the shape of `x`.

        Raises:
            ValueError: if the context is missing, or the input or the context has the wrong shape.
        """
        if x.shape[1:] != self.shape:
            expected = ", ".join(map(str, self.shape))
            raise ValueError(f"input of shape {tuple(x.shape)}: this net takes [B, {expected}]")
        self.check_context(context, len(x))
        if any(map(is_replaced, self.lipschitz_layers())):
            return self._by_layers(x, context)
        return self.at(context).forward(x)

    def _by_layers(self, x: Tensor, context: Tensor | None) -> Tensor:
        """The same by calls of all layers and activations, one by one."""
        if not is_ours(type(self).weights_in_use):
            raise ValueError(
                f"{type(self).__name__} has weights_in_use of its own: layers with hooks, or with "
                "another forward, would not know them. Put hooks on the net or its activations"
            )
        frequencies, mixing = self.frequencies(), self.mixing() or itertools.repeat(None)

        def activated(activation: nn.Module, h: Tensor) -> Tensor:
            before, after = (spread(w, h.dim() - 2) for w in next(frequencies))
            value: Tensor = activation(before * h)
            return after * value

        if self.first is not None:
            x = activated(self.first, x)
        *hidden, last = self.layers
        parts = zip(hidden, self.activations, mixing, strict=False)
        for i, (layer, activation, scalars) in enumerate(parts):
            h = layer(self.entering(i, x))
            if context is not None and self.context_layers:
                h = h + spread(self.context_layers[i](context), h.dim() - 2)
            h = activated(activation, h)
            x = h if scalars is None else torch.cat((scalars[0] * x, scalars[1] * h), dim=1)
        value: Tensor = last(self.entering(len(hidden), x))
        return value

    def entering(self, i: int, x: Tensor) -> Tensor:
        """What a layer is called with, by its number and the values before it, `[B, ...]`."""
        return x

    def certificate(self) -> float | None:
        """Upper bound on the net's Lipschitz constant at its current weights, in the 2-norm.

        None if there is no proof: weights are not finite, the net or a layer has hooks or another
        `forward`, a sub-class has `forward` or `weights_in_use` of its own, or an activation has
        hooks or is not one whose constant is known to be at most 1.
        """
        activations = [a for a in (self.first, *self.activations) if a is not None]
        own = is_ours(type(self).weights_in_use)  # nobody knows what others make of the layers
        if not (own and self.is_known() and all(map(contracts, activations))):
            return None
        with blaming_weights(self):
            return self.proved_bound()

    def is_known(self) -> bool:
        """Whether the net computes what its finite weights say: nobody has changed how."""
        kind = type(self)
        own = is_ours(kind.forward) and kind.__call__ is nn.Module.__call__ and not watched(self)
        finite = all(bool(p.isfinite().all()) for p in self.parameters())
        return own and finite and not any(map(is_replaced, self.lipschitz_layers()))

    def proved_bound(self) -> float:
        """The certificate of finite weights and activations with a constant of at most 1."""
        return math.prod(layer.norm_bound() for layer in self.lipschitz_layers())


def check_sizes(**sizes: object) -> None:
    """Refuse sizes, or tuples of them, that are not whole and positive, by a `ValueError`."""
    for size in sizes.values():
        numbers = size if isinstance(size, tuple) else (size,)
        if not all(is_whole(n) and n >= 1 for n in numbers):
            text = ", ".join(f"{name}={value!r}" for name, value in sizes.items())
            raise ValueError(f"{text}: positive sizes are needed")
