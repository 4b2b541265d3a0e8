"""What is computed once for all evaluations of the nets of a block: weights, or whole chains.

With a few hundred rows, normalising weights and taking a net apart costs as much as evaluating it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from impflow_zoo.lipschitz.norms import Held, LipschitzLayer
from impflow_zoo.numerics.chain import Chain, Chained

__all__ = ["KeptChains", "held_weights"]


class _Kept(NamedTuple):
    """A chain, and what it was made of.

    Arguments:
        chain: the net.
        settings: everything that it depends on but for numbers in tensors.
        tensors: copies of those.
    """

    chain: Chain
    settings: list[Any]
    tensors: list[Tensor]


_kept: WeakKeyDictionary[nn.Module, _Kept] = WeakKeyDictionary()  # not in the nets, to be pickled


class KeptChains(Chained, nn.Module):
    """Base of nets whose chain is kept between calls until anything that it is made of changes.

    In evaluation mode, without gradients and without a context. Every number is compared, as
    changes of `parameter.data` leave no other trace.
    """

    def ingredients(self) -> tuple[list[Any], list[Tensor]] | None:
        """All that the chain depends on, settings and tensors; None if there is more to it."""
        raise AssertionError("a net says what its chain is made of")

    def fresh_chain(self) -> Chain | None:
        """The chain without a context, made anew."""
        raise AssertionError("a net says what it consists of")

    def held_chain(self) -> Chain | None:
        """The chain that the block at work holds for its thread."""
        thread, chain = self.__dict__.get("_held_chain", (None, None))
        return chain if thread == get_ident() else None


@contextmanager
def held_weights(*nets: nn.Module, chains: bool = False) -> Iterator[None]:
    """Compute each normalised weight once, and use it for every evaluation within the block.

    The weights are those of this thread; another one that uses the nets meanwhile computes its own.
    Layers with hooks that run first (`torch.nn.utils.prune`) may get another weight by them, and
    compute theirs in every evaluation.

    Arguments:
        nets: the nets, or anything that holds layers.
        chains: nets are evaluated as chains without a context alone, where they are any.
    """
    gradient = torch.is_grad_enabled()
    chains = chains and not (gradient or torch.compiler.is_compiling())
    whole: list[nn.Module] = []
    layers: dict[LipschitzLayer, None] = {}
    try:
        # Tensors made in inference mode could not enter the graphs that log-dets are taken from.
        with torch.inference_mode(mode=False), torch.set_grad_enabled(gradient):
            for net in nets:
                if chains and isinstance(net, KeptChains) and _hold_chain(net):
                    whole.append(net)
                    continue
                for layer in net.modules():
                    if not isinstance(layer, LipschitzLayer) or layer._forward_pre_hooks:
                        continue
                    if "_held" not in layer.__dict__:
                        layers[layer] = None
                        weight = layer.fresh_weight()
                        layer.__dict__["_held"] = Held(get_ident(), weight, weight.detach())
        yield
    finally:
        for net in whole:
            net.__dict__.pop("_held_chain", None)
        for layer in layers:
            held = layer.__dict__.get("_held")
            if held is not None and held.thread == get_ident():
                layer.__dict__.pop("_held", None)


def _hold_chain(net: KeptChains) -> bool:
    """Whether a net has a chain to be held and nobody holds it; if so, it does now."""
    found = None if net.training or "_held_chain" in net.__dict__ else net.ingredients()
    if found is None or torch.is_autocast_enabled(found[1][0].device.type):
        return False
    chain = _kept_chain(net, *found)
    if chain is not None:
        net.__dict__["_held_chain"] = get_ident(), chain
    return chain is not None


def _kept_chain(net: KeptChains, settings: list[Any], tensors: list[Tensor]) -> Chain | None:
    kept = _kept.get(net)
    if kept is not None and settings == kept.settings and _same(tensors, kept.tensors):
        return kept.chain
    chain = net.fresh_chain()
    if chain is not None:
        # Power vectors among them have come to convergence meanwhile.
        _kept[net] = _Kept(chain, settings, [t.detach().clone() for t in tensors])
    return chain


def _same(tensors: list[Tensor], others: list[Tensor]) -> bool:
    return all(
        a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
        for a, b in zip(tensors, others, strict=True)
    )
