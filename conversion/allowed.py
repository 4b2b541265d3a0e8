"""The allow-list: what the names in the papers' checkpoints stand for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from conversion.errors import ConversionError
from conversion.pickles import Name, Standin

__all__ = ["Storage", "StoredTensor", "find", "persistent"]

_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_MOST_DIMENSIONS = 64  # as in torch; the product of many more takes for ever
# Classes of the public code, and of torch: objects of them are kept as their saved state.
_CLASSES = ("lib.", "resflows.", "torch.nn.", "torch.optim.")


@dataclass(frozen=True)
class Storage:
    """Numbers in the file, not read yet."""

    key: str
    dtype: torch.dtype
    size: int


@dataclass(frozen=True)
class StoredTensor:
    """A view of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.shape) > _MOST_DIMENSIONS:
            raise ConversionError(f"a tensor has {len(self.shape)} dimensions: refused")
        numbers = (self.offset, *self.shape, *self.stride)
        if len(self.shape) != len(self.stride) or any(type(n) is not int for n in numbers):
            raise ConversionError("a tensor's shape is damaged: refused")
        last = sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        count = 1
        for n in self.shape:
            count *= n
        if (
            min(numbers) < 0
            or count > self.storage.size
            or (count and self.offset + last >= self.storage.size)
        ):
            raise ConversionError(
                f"a tensor of shape {self.shape} reaches out of its {self.storage.size} numbers: "
                "refused"
            )


def find(module: str, name: str) -> Name:
    """What a name in a pickle stands for.

    Raises:
        ConversionError: if it is not on the list.
    """
    full = f"{module}.{name}"
    if full in _MAKERS:
        return Name(full, _MAKERS[full])
    if module == "torch" and name in _STORAGES:
        return Name(full, _uncallable(full))
    if module.startswith(_CLASSES):
        return Name(full, lambda *_: Standin(full))
    raise ConversionError(f"the pickle asks for {full}, which is not allowed: nothing was run")


def persistent(key: Any) -> Any:
    """What a persistent id stands for: a storage, or a class with its source code.

    Raises:
        ConversionError: if it is neither.
    """
    match key:
        case ("storage", Name(name=name), str(at), str(), int(size), *view):
            dtype = _STORAGES.get(name.removeprefix("torch."))
            if dtype is not None and size >= 0 and all(v is None for v in view):
                return Storage(at, dtype, size)
        case ("module", Name() as found, *_):
            return found
    raise ConversionError("the pickle refers to a storage of an unknown kind: refused")


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> StoredTensor:
    if not isinstance(storage, Storage):
        raise ConversionError("a tensor without a storage: refused")
    return StoredTensor(storage, offset, tuple(shape), tuple(stride))


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _ordered(pairs: Any = (), *_: Any) -> dict[Any, Any]:
    return {key: value for key, value in pairs if isinstance(key, str | int)}


def _nothing(*_: Any) -> None:
    return None


def _members(members: Any = (), *_: Any) -> list[Any]:
    return list(members)


def _uncallable(full: str) -> Callable[..., Any]:
    def make(*_: Any) -> Any:
        raise ConversionError(f"the pickle calls {full}: refused")

    return make


_MAKERS: dict[str, Callable[..., Any]] = {
    "argparse.Namespace": lambda *_: Standin("argparse.Namespace"),
    "collections.OrderedDict": _ordered,
    "collections.defaultdict": lambda *_: {},
    "builtins.dict": lambda *_: {},
    "__builtin__.dict": lambda *_: {},
    "builtins.set": _members,
    "__builtin__.set": _members,
    "torch.Size": lambda sizes=(), *_: tuple(sizes),
    "torch.device": _nothing,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    # numpy's scalars, as results are saved now and then: not needed
    "numpy.dtype": lambda *_: Standin("numpy.dtype"),
    "numpy.core.multiarray.scalar": _nothing,
    "numpy._core.multiarray.scalar": _nothing,
    "_codecs.encode": _nothing,
}
