"""A reader of the pickles of `torch.save` that cannot run anything.

Pickle is a small stack language. This module knows those of its instructions that torch writes
(protocol 2), and of the names in a pickle those that checkpoints of the two papers hold. It refuses
all others. It imports nothing and calls nothing: objects become stand-ins, tensors say where their
numbers lie. Entries of dictionaries count only under text. What it builds is no larger than the
file, in proportion, and takes no longer.
"""

from __future__ import annotations

import math
import pickletools
import re
from dataclasses import dataclass, field
from typing import IO, Any

import torch

from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.reading import readable

__all__ = ["ConversionError", "Standin", "Storage", "StoredTensor", "read_pickle"]

_MOST_INSTRUCTIONS = 10_000_000
_MOST_DIMENSIONS = 64  # as in torch; the product of many more takes for ever
_DTYPES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
_TENSORS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
_PARAMETER = "torch._utils._rebuild_parameter"
_DICTIONARIES = ("collections.OrderedDict", "collections.defaultdict")
_NAMES = {*_DTYPES, *_TENSORS, _PARAMETER, *_DICTIONARIES, "argparse.Namespace", "torch.Size"}
# Classes of the public code and of torch, and what settings and results may hold beside numbers.
_CLASSES = re.compile(
    r"(lib|resflows|torch\.nn|torch\.optim)\..+|torch\.device|(__builtin__|builtins)\.(dict|set)|"
    r"numpy\.(dtype|_?core\.multiarray\.scalar)|_codecs\.encode"
)
_MARK = object()


class ConversionError(ModelError):
    """A checkpoint cannot be read or represented; the message is one line that says why."""

    def __init__(self, message: str) -> None:
        super().__init__(readable(message))


@dataclass(frozen=True)
class Name:
    """A name that is allowed: module and name within it."""

    text: str


@dataclass
class Standin:
    """An object of a class that is not imported: its name, and the state that was saved."""

    name: str
    state: dict[Any, Any] = field(default_factory=dict, repr=False)  # may be 2^40 values in words


@dataclass(frozen=True)
class Storage:
    """Numbers in the file, not read yet."""

    key: str
    dtype: torch.dtype
    size: int


@dataclass(frozen=True)
class StoredTensor:
    """A view of a storage, within its bounds."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def read_pickle(file: IO[bytes], storages: dict[str, Storage]) -> Any:
    """Read one pickle, up to its end mark.

    Arguments:
        file: where to read, in memory or mapped; it is left behind the end mark.
        storages: those that the pickle mentions are added, by key.

    Raises:
        ConversionError: for a name or an instruction that is not known here, and for pickles that
            are damaged.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}  # a dict, so that a large index costs nothing
    try:
        for count, (instruction, value, _) in enumerate(pickletools.genops(file)):
            if instruction.name == "STOP":
                return stack.pop()
            if count >= _MOST_INSTRUCTIONS:
                raise ConversionError(f"the pickle has more than {count} instructions: refused")
            _step(instruction.name, value, stack, memo, storages)
    except ConversionError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise ConversionError(f"the pickle is damaged: {error}") from None
    raise ConversionError("the pickle is damaged: it has no end")


def _step(
    name: str, value: Any, stack: list[Any], memo: dict[int, Any], storages: dict[str, Storage]
) -> None:
    match name:
        case "PROTO" if value == 2:
            pass
        case "MARK":
            stack.append(_MARK)
        case "NONE":
            stack.append(None)
        case "NEWTRUE" | "NEWFALSE":
            stack.append(name == "NEWTRUE")
        case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
            stack.append(value)
        case "EMPTY_TUPLE":
            stack.append(())
        case "EMPTY_LIST":
            stack.append([])
        case "EMPTY_DICT":
            stack.append({})
        case "TUPLE1" | "TUPLE2" | "TUPLE3":
            stack.append(tuple([stack.pop() for _ in range(int(name[-1]))][::-1]))
        case "TUPLE":
            stack.append(tuple(_since_mark(stack)))
        case "APPEND" | "APPENDS":
            items = [stack.pop()] if name == "APPEND" else _since_mark(stack)
            _last(stack, list).extend(items)
        case "SETITEM" | "SETITEMS":
            items = [stack.pop(), stack.pop()][::-1] if name == "SETITEM" else _since_mark(stack)
            target = _last(stack, dict)
            for key, item in zip(items[::2], items[1::2], strict=True):
                if isinstance(key, str):  # numbers may collide, and tuples take for ever to hash
                    target[key] = item
        case "BINPUT" | "LONG_BINPUT":
            memo[value] = stack[-1]
        case "BINGET" | "LONG_BINGET":
            stack.append(memo[value])
        case "GLOBAL":
            stack.append(_allowed(value.replace(" ", ".", 1)))
        case "REDUCE" | "NEWOBJ":
            arguments = stack.pop()
            stack.append(_made(stack.pop(), arguments))
        case "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], Standin) and isinstance(state, dict):
                stack[-1].state = state
        case "BINPERSID":
            stack.append(_persistent(stack.pop(), storages))
        case _:
            value = f" {value}" if name == "PROTO" else ""
            raise ConversionError(f"the pickle uses {name}{value}, which torch does not: refused")


def _since_mark(stack: list[Any]) -> list[Any]:
    items = []
    while (top := stack.pop()) is not _MARK:
        items.append(top)
    return items[::-1]


def _last(stack: list[Any], kind: type) -> Any:
    if not isinstance(stack[-1], kind):
        raise ConversionError(f"the pickle adds items to no {kind.__name__}: refused")
    return stack[-1]


def _allowed(name: str) -> Name:
    if name not in _NAMES and not _CLASSES.fullmatch(name):
        raise ConversionError(f"the pickle asks for {name}, which is not allowed: nothing was run")
    return Name(name)


def _made(called: Any, arguments: Any) -> Any:
    """What stands for an object that the pickle has made by a call."""
    match called, arguments:
        case Name(text=name), (Storage() as s, offset, shape, stride, *_) if name in _TENSORS:
            return _tensor(s, offset, shape, stride)
        case Name(text=name), (data, *_) if name == _PARAMETER:
            return data
        case Name(text=name), _ if name in _DICTIONARIES:
            return {}
        case Name(text=name), _ if name not in (*_TENSORS, *_DTYPES):
            return Standin(name)
    raise ConversionError("the pickle calls an object that cannot be called: refused")


def _persistent(key: Any, storages: dict[str, Storage]) -> Any:
    """What a persistent id stands for: a storage, or a class with its source code."""
    match key:
        case (  # an older file ends it with None: it is no part of another storage
            ("storage", Name(text=name), str(at), str(), int(size))
            | ("storage", Name(text=name), str(at), str(), int(size), None)
        ) if name in _DTYPES and size >= 0:
            return storages.setdefault(at, Storage(at, _DTYPES[name], size))
        case ("module", Name() as found, *_):
            return found
    raise ConversionError("the pickle refers to a storage of an unknown kind: refused")


def _tensor(storage: Storage, offset: Any, shape: Any, stride: Any) -> StoredTensor:
    if not (isinstance(shape, tuple | list) and isinstance(stride, tuple | list)):
        raise ConversionError("a tensor's shape is no list: refused")
    if len(shape) > _MOST_DIMENSIONS or len(shape) != len(stride):
        raise ConversionError(f"a tensor has {len(shape)} dimensions: refused")
    numbers = (offset, *shape, *stride)
    if not all(type(n) is int and n >= 0 for n in numbers):
        raise ConversionError("a tensor's shape is damaged: refused")
    count = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if count > storage.size or (count and last >= storage.size):
        raise ConversionError(
            f"a tensor of shape {shape} reaches out of its {storage.size} numbers: refused"
        )
    return StoredTensor(storage, offset, tuple(shape), tuple(stride))
