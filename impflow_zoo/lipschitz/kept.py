"""What evaluation makes of the tensors of a module, kept until one of them changes.

There is one mechanism: a module that keeps something has an attribute `kept`, a `Kept`. A net keeps
its folded weights, a layer the singular vector of its weight. Beside that, nothing is kept that is
as large as a tensor of the module.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from impflow_zoo.lipschitz.activations import watched
from impflow_zoo.numerics.modes import grad_mode, is_plain

__all__ = ["Kept", "is_ours", "sources"]

T = TypeVar("T")
Sources = tuple[Sequence[Tensor], Sequence[object]]  # tensors, and settings that are no tensors
_ROW = 256  # entries behind one number of a checksum


class Kept(Generic[T]):
    """A value, and what tells whether the tensors and settings it was made from have changed.

    Tensors have a version, which every operation of torch in place raises. An edit of
    ``tensor.data`` leaves no trace but in the entries: of these there is a checksum. Settings are
    compared by identity. Nothing is kept if they hold a class that is not of this package, whose
    code may read anything, or a tensor that is neither parameter nor buffer. Copies and pickles are
    empty. Threads may use it at once: the worst is that several make the same value.
    """

    def __init__(self) -> None:
        self._state: tuple[list[int], Tensor, Sequence[object], T] | None = None

    def get(self, sources: Sources, make: Callable[[], T]) -> T:
        """The value of these sources, made by a function if it is not there.

        Arguments:
            sources: all tensors, on one device, and anything else that the value depends on;
                gradients are not recorded, or no tensor needs any.
            make: makes the value, of tensors without a graph.
        """
        tensors, settings = sources
        versions = [-1 if t.is_inference() else t._version for t in tensors]
        checksum, state = _checksum(tensors), self._state
        if state is None or not _is_same(state, versions, checksum, settings):
            if not all(map(_is_known, settings)):
                return make()
            with grad_mode(enabled=False):  # tensors of inference mode could not enter graphs later
                state = self._state = versions, checksum, settings, make()
        return state[3]

    def __reduce__(self) -> tuple[Any, ...]:
        return Kept, ()


def _checksum(tensors: Sequence[Tensor]) -> Tensor:
    """One number for every 256 entries of the tensors: their sum, each with a weight of its own."""
    filling = tensors[0].new_zeros(-sum(t.numel() for t in tensors) % _ROW)
    rows = torch.cat([*(t.flatten() for t in tensors), filling]).view(-1, _ROW)
    return rows @ torch.logspace(0, 1, _ROW, dtype=rows.dtype, device=rows.device)


def _is_known(setting: object) -> bool:
    """Whether the setting tells all that is read of it, see `Kept`."""
    return is_ours(setting) if isinstance(setting, type) else not isinstance(setting, Tensor)


def _is_same(
    state: tuple[list[int], Tensor, Sequence[object], Any],
    versions: list[int],
    checksum: Tensor,
    settings: Sequence[object],
) -> bool:
    old_versions, old, old_settings, _ = state
    if len(old_settings) != len(settings) or not all(map(operator.is_, old_settings, settings)):
        return False
    alike = old.dtype == checksum.dtype and old.device == checksum.device
    return alike and old_versions == versions and old.equal(checksum)


def sources(net: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Sources | None:
    """All tensors of a net, and the settings of its modules.

    None if what is made of them may not be kept, as gradients flow to them. Code within
    `torch.compile` and transforms of `torch.func` keeps nothing.

    Arguments:
        net: the net.
        kinds: the classes whose attributes count. Modules of other classes are called, not kept.
    """
    if is_plain():
        return None
    modules, recorded = list(net.modules()), torch.is_grad_enabled()
    tensors = [p for module in modules for p in module._parameters.values() if p is not None]
    for p in tensors:
        # Other tensors in place of parameters may have derivatives of other kinds.
        if (recorded and p.requires_grad) or not isinstance(p, nn.Parameter):
            return None
    buffers = [b for module in modules for b in module._buffers.values() if b is not None]
    settings: list[object] = [*modules]
    for module in modules:
        if isinstance(module, kinds):
            settings += (type(module), watched(module), *vars(module).values())
    return [*tensors, *buffers], settings


def is_ours(thing: Any) -> bool:
    """Whether a class or function is of this package: of others nobody knows what they read."""
    module: str = thing.__module__
    return module.startswith("impflow_zoo.")
