"""A reader of pickles that cannot run anything.

Pickle is a small stack language. This module interprets the instructions that `torch.save` uses on
plain values alone: there is no import and no call in it but of the makers that an allow-list gives,
and what it builds is never larger than the file in proportion. Every other instruction and every
other name is refused.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, BinaryIO, cast

from conversion.errors import ConversionError

__all__ = ["Name", "Standin", "read_pickle"]

_MOST_INSTRUCTIONS = 10_000_000
_MOST_ITEMS = 10_000_000  # that calls are given: one list may be given again and again
_LONGEST_VALUE = 1 << 26  # bytes
_MARK = object()

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = {
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "LONG4",
    "BINFLOAT",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "BINSTRING",
    "SHORT_BINSTRING",
    "SHORT_BINBYTES",
    "BINBYTES",
}
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,  # the members of a set are kept, their hashes are not needed
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_KEYS = (str, int, float, type(None))
_COPIED = (tuple, list, dict, str, bytes)


@dataclass(frozen=True)
class Name:
    """A name from the allow-list.

    Arguments:
        name: module and name in the pickle.
        make: what stands for calling it.
    """

    name: str
    make: Callable[..., Any]


class Standin:
    """An object of a class that is not imported: its name, and the state that was saved."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: dict[str, Any] = {}


def read_pickle(
    file: BinaryIO, find: Callable[[str, str], Name], persistent: Callable[[Any], Any]
) -> Any:
    """Read one pickle, up to its end mark.

    Arguments:
        file: where to read; it is left behind the end mark.
        find: the allow-list, from module and name to what they stand for; refuses others.
        persistent: what persistent ids stand for.

    Raises:
        ConversionError: for a name that is not allowed, an instruction that is not needed, and
            pickles that are damaged or out of bounds.
    """
    machine = _Machine(find, persistent)
    try:
        bounded = cast(IO[bytes], _Bounded(file))
        for count, (instruction, value, _) in enumerate(pickletools.genops(bounded)):
            if instruction.name == "STOP":
                return machine.pop()
            if count >= _MOST_INSTRUCTIONS:
                raise ConversionError(f"the pickle has more than {count} instructions: refused")
            machine.step(instruction.name, value)
    except ConversionError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise ConversionError(f"the pickle is damaged: {error}") from None
    raise ConversionError("the pickle is truncated")


class _Bounded(io.RawIOBase):
    """A file whose reads are bounded, whatever lengths the pickle claims."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LONGEST_VALUE:
            raise ConversionError(f"the pickle holds a value of {size} bytes: refused")
        return self._file.read(size)

    def readline(self, size: int | None = -1) -> bytes:
        return self._file.readline(_LONGEST_VALUE)

    def tell(self) -> int:
        return self._file.tell()


class _Machine:
    """Stack and memo of one pickle."""

    def __init__(self, find: Callable[[str, str], Name], persistent: Callable[[Any], Any]) -> None:
        self.find, self.persistent = find, persistent
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}  # a dict, so that a large index costs nothing
        self.items = 0

    def pop(self) -> Any:
        top = self.stack.pop()
        if top is _MARK:
            raise ConversionError("the pickle is damaged: a mark where a value is due")
        return top

    def pop_to_mark(self) -> list[Any]:
        items = []
        while (top := self.stack.pop()) is not _MARK:
            items.append(top)
        return items[::-1]

    def step(self, name: str, value: Any) -> None:
        """Carry out one instruction."""
        push = self.stack.append
        if name in _VALUES:
            push(value)
        elif name in _CONSTANTS:
            push(_CONSTANTS[name])
        elif name in _EMPTY:
            push(_EMPTY[name]())
        elif name in _TUPLES:
            items = [self.pop() for _ in range(_TUPLES[name])]
            push(tuple(reversed(items)))
        elif handler := getattr(self, f"_on_{name.lower()}", None):
            handler(value)
        else:
            raise ConversionError(f"the pickle uses {name}, which torch.save does not: refused")

    def _on_proto(self, value: int) -> None:
        if not 2 <= value <= 5:
            raise ConversionError(f"the pickle has protocol {value}; 2 to 5 are read")

    def _on_frame(self, value: int) -> None:
        pass

    def _on_mark(self, _: None) -> None:
        self.stack.append(_MARK)

    def _on_tuple(self, _: None) -> None:
        self.stack.append(tuple(self.pop_to_mark()))

    def _on_append(self, _: None) -> None:
        self._extend([self.pop()])

    def _on_appends(self, _: None) -> None:
        self._extend(self.pop_to_mark())

    _on_additems = _on_appends

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ConversionError("the pickle appends to what is no list: refused")
        self.stack[-1].extend(items)

    def _on_setitem(self, _: None) -> None:
        value, key = self.pop(), self.pop()
        self._set([key, value])

    def _on_setitems(self, _: None) -> None:
        self._set(self.pop_to_mark())

    def _set(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise ConversionError("the pickle sets items of what is no dictionary: refused")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, _KEYS):  # hashes of nested tuples can take for ever
                raise ConversionError(f"the pickle has a key of type {type(key).__name__}: refused")
            self.stack[-1][key] = value

    def _on_global(self, value: str) -> None:
        self.stack.append(self.find(*value.split(" ", 1)))

    def _on_stack_global(self, _: None) -> None:
        name, module = self.pop(), self.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise ConversionError("the pickle has a name that is no text: refused")
        self.stack.append(self.find(module, name))

    def _on_reduce(self, _: None) -> None:
        arguments, called = self.pop(), self.pop()
        if not isinstance(called, Name) or not isinstance(arguments, tuple):
            raise ConversionError("the pickle calls what is no name: refused")
        self.items += sum(len(given) for given in arguments if isinstance(given, _COPIED))
        if self.items > _MOST_ITEMS:
            raise ConversionError(f"the pickle calls with more than {_MOST_ITEMS} items: refused")
        self.stack.append(called.make(*arguments))

    _on_newobj = _on_reduce

    def _on_build(self, _: None) -> None:
        state, built = self.pop(), self.stack[-1]
        if isinstance(built, Standin) and isinstance(state, dict):
            built.state = state
        elif not isinstance(built, dict):  # an OrderedDict's attributes are of no use
            raise ConversionError("the pickle sets the state of what has none: refused")

    def _on_binpersid(self, _: None) -> None:
        self.stack.append(self.persistent(self.pop()))

    def _on_binput(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    _on_long_binput = _on_binput

    def _on_memoize(self, _: None) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _on_binget(self, index: int) -> None:
        self.stack.append(self.memo[index])

    _on_long_binget = _on_binget
