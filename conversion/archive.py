"""The two formats of `torch.save`: a zip archive, and the older one of pickles in a row."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self

import torch
from torch import Tensor
from torch.serialization import MAGIC_NUMBER, PROTOCOL_VERSION

from conversion import allowed
from conversion.allowed import Storage, StoredTensor
from conversion.errors import ConversionError
from conversion.pickles import read_pickle

__all__ = ["Archive", "open_archive"]

_LARGEST_PICKLE = 1 << 28  # bytes


class _Storages(Protocol):
    def read(self, storage: Storage) -> bytes | bytearray:
        """The bytes of a storage."""

    def close(self) -> None:
        """Close the file."""


class Archive:
    """An open checkpoint: its objects, with tensors that are read when asked for.

    Arguments:
        content: what was saved.
        storages: where the numbers are.
    """

    def __init__(self, content: Any, storages: _Storages) -> None:
        self.content = content
        self._storages = storages

    def read(self, tensor: StoredTensor) -> Tensor:
        """A tensor's numbers, on their own memory."""
        data = self._storages.read(tensor.storage)
        if not data:
            return torch.empty(tensor.shape, dtype=tensor.storage.dtype)
        flat = torch.frombuffer(bytearray(data), dtype=tensor.storage.dtype)
        return flat.as_strided(tensor.shape, tensor.stride, tensor.offset).clone()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._storages.close()


def open_archive(path: Path) -> Archive:
    """Read the objects of a checkpoint without running any of its code.

    Raises:
        ConversionError: if it is no checkpoint, damaged, or holds a name that is not allowed.
    """
    try:
        zipped = zipfile.is_zipfile(path)
        file = open(path, "rb")  # noqa: SIM115 - closed by the archive
    except OSError as error:
        raise ConversionError(f"{path} cannot be read: {error.strerror}") from None
    try:
        return _open_zip(file) if zipped else _open_row(file)
    except (zipfile.BadZipFile, EOFError, RuntimeError, OSError) as error:
        file.close()
        raise ConversionError(f"{path.name} is damaged: {error}") from None
    except BaseException:
        file.close()
        raise


def _open_zip(file: BinaryIO) -> Archive:
    archive = zipfile.ZipFile(file)
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ConversionError("a zip archive, but not of torch.save: no data.pkl in it")
    root = pickles[0].removesuffix("data.pkl")
    storages = _Zip(archive, root)
    if f"{root}byteorder" in archive.namelist() and storages.entry("byteorder") != b"little":
        raise ConversionError("the checkpoint was written on a big-endian machine: not supported")
    stream = io.BytesIO(storages.entry("data.pkl"))
    return Archive(read_pickle(stream, allowed.find, allowed.persistent), storages)


class _Zip:
    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        self.archive, self.root = archive, root

    def entry(self, name: str, size: int | None = None) -> bytes:
        """The content of an entry, which must be as large as expected."""
        try:
            info = self.archive.getinfo(self.root + name)
        except KeyError:
            raise ConversionError(f"the checkpoint has no {name}: damaged") from None
        if info.compress_type != zipfile.ZIP_STORED:
            raise ConversionError(f"{name} is compressed, which torch.save never does: refused")
        if size is None and info.file_size > _LARGEST_PICKLE:
            raise ConversionError(f"{name} is of {info.file_size} bytes: refused")
        if size is not None and info.file_size != size:
            raise ConversionError(f"{name} is of {info.file_size} bytes, {size} are due: damaged")
        try:
            return self.archive.read(info)
        except (zipfile.BadZipFile, RuntimeError, EOFError, OSError) as error:
            raise ConversionError(f"{name} is damaged: {error}") from None

    def read(self, storage: Storage) -> bytes:
        return self.entry(f"data/{storage.key}", storage.size * storage.dtype.itemsize)

    def close(self) -> None:
        file = self.archive.fp
        self.archive.close()
        if file is not None:
            file.close()


def _open_row(file: BinaryIO) -> Archive:
    """Five pickles (magic number, protocol, system, objects, storage keys), then the storages."""
    used: dict[str, Storage] = {}

    def persistent(key: Any) -> Any:
        found = allowed.persistent(key)
        if isinstance(found, Storage):
            used[found.key] = found
        return found

    def following() -> Any:
        return read_pickle(file, allowed.find, persistent)

    head = file.read(1)
    file.seek(0)
    if head not in (b"\x80", b"c", b"("):  # the last two: pickles by hand, refused by name
        raise ConversionError("neither a zip archive nor a pickle: not written by torch.save")
    if following() != MAGIC_NUMBER or following() != PROTOCOL_VERSION:
        raise ConversionError("a pickle, but not one of torch.save")
    system = following()
    if not (isinstance(system, dict) and system.get("little_endian") is True):
        raise ConversionError("the checkpoint was written on a big-endian machine: not supported")
    content, keys = following(), following()
    return Archive(content, _Row(file, used, keys if isinstance(keys, list) else []))


class _Row:
    def __init__(self, file: BinaryIO, used: dict[str, Storage], keys: list[Any]) -> None:
        self.file = file
        self.at: dict[str, int] = {}
        end = os.fstat(file.fileno()).st_size
        for key in keys:
            if not isinstance(key, str):  # others may not have a hash, or one that takes for ever
                raise ConversionError("a storage's key is no text: damaged")
            storage, size = used.get(key), file.read(8)
            if storage is None or len(size) != 8 or struct.unpack("<q", size)[0] != storage.size:
                raise ConversionError(f"storage {key!r} is missing or of another size: damaged")
            self.at[key] = file.tell()
            file.seek(storage.size * storage.dtype.itemsize, os.SEEK_CUR)
            if file.tell() > end:
                raise ConversionError(f"storage {key!r} ends after the file: truncated")

    def read(self, storage: Storage) -> bytes:
        if storage.key not in self.at:
            raise ConversionError(f"storage {storage.key!r} is missing: damaged")
        self.file.seek(self.at[storage.key])
        return self.file.read(storage.size * storage.dtype.itemsize)

    def close(self) -> None:
        self.file.close()
