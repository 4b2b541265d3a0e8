"""The two formats of `torch.save`: a zip archive, and the older one of pickles in a row."""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor
from torch.serialization import MAGIC_NUMBER, PROTOCOL_VERSION

from conversion.pickles import ConversionError, Storage, StoredTensor, read_pickle
from impflow_zoo.models.reading import open_file

__all__ = ["Archive", "open_archive"]

_READ = 4  # times the size of the file


@dataclass
class Archive:
    """An open checkpoint: its objects, with tensors that are read when asked for.

    Arguments:
        content: what was saved.
        bytes_of: the bytes of a storage.
        most: how many bytes may be read in all; a storage is read for each of its tensors.
    """

    content: Any
    bytes_of: Callable[[Storage], bytes]
    most: int

    def read(self, tensor: StoredTensor) -> Tensor:
        """A tensor's numbers, on their own memory."""
        storage = tensor.storage
        size = storage.size * storage.dtype.itemsize
        self.most -= size
        if self.most < 0:
            raise ConversionError("tensors share storages, or are larger than the file: refused")
        with _damages():
            data = self.bytes_of(storage)
        if len(data) != size:
            raise ConversionError(f"storage {storage.key!r} is of another size: damaged")
        if not data:
            return torch.empty(tensor.shape, dtype=storage.dtype)
        flat = torch.frombuffer(bytearray(data), dtype=storage.dtype)
        return flat.as_strided(tensor.shape, tensor.stride, tensor.offset).clone()


@contextlib.contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Read the objects of a checkpoint without running any of its code.

    Raises:
        ConversionError: if it is no checkpoint, damaged, or holds a name that is not allowed.
    """
    try:
        file = open_file(path)
    except OSError as error:
        raise ConversionError(f"{path} cannot be read: {error.strerror}") from None
    with file:
        with _damages():
            size = os.fstat(file.fileno()).st_size
            archive = (_open_zip if zipfile.is_zipfile(file) else _open_row)(file, size)
        yield archive


@contextlib.contextmanager
def _damages() -> Iterator[None]:
    try:
        yield
    except ConversionError:
        raise
    except (
        zipfile.BadZipFile,
        struct.error,
        EOFError,
        KeyError,
        OSError,
        OverflowError,
        RuntimeError,
        ValueError,
    ) as error:
        raise ConversionError(f"the checkpoint is damaged: {error}") from None


def _open_zip(file: IO[bytes], size: int) -> Archive:
    archive = zipfile.ZipFile(file)
    names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(names) != 1:
        raise ConversionError("a zip archive, but not of torch.save: no data.pkl in it")
    root = names[0].removesuffix("data.pkl")

    def entry(name: str) -> bytes:
        info = archive.getinfo(root + name)
        if info.compress_type != zipfile.ZIP_STORED:
            raise ConversionError(f"{name} is compressed, which torch.save never does: refused")
        if max(info.file_size, info.compress_size) > size:
            raise ConversionError(f"{name} is larger than the file: damaged")
        return archive.read(info)

    if f"{root}byteorder" in archive.namelist():
        _require_little_endian(entry("byteorder") == b"little")
    content = read_pickle(io.BytesIO(entry("data.pkl")), {})
    return Archive(content, lambda storage: entry(f"data/{storage.key}"), _READ * size)


def _open_row(file: IO[bytes], size: int) -> Archive:
    """Five pickles (magic number, protocol, system, objects, storage keys), then the storages."""
    file.seek(0)
    if file.read(1) != b"\x80":
        raise ConversionError("neither a zip archive nor a pickle: not written by torch.save")
    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    storages: dict[str, Storage] = {}

    def following() -> Any:
        return read_pickle(cast(IO[bytes], data), storages)

    if following() != MAGIC_NUMBER or following() != PROTOCOL_VERSION:
        raise ConversionError("a pickle, but not one of torch.save")
    system = following()
    _require_little_endian(isinstance(system, dict) and system.get("little_endian") is True)
    content, keys = following(), following()
    places: dict[str, slice] = {}
    for key in keys if isinstance(keys, list) else []:
        storage = storages.get(key) if isinstance(key, str) else None
        if storage is None or data.read(8) != struct.pack("<q", storage.size):
            raise ConversionError("a storage is missing or of another size: damaged")
        end = data.tell() + storage.size * storage.dtype.itemsize
        if end > len(data):
            raise ConversionError(f"storage {key!r} ends after the file: truncated")
        places[storage.key] = slice(data.tell(), end)
        data.seek(end)
    return Archive(content, lambda storage: data[places[storage.key]], _READ * size)


def _require_little_endian(little: bool) -> None:
    if not little:
        raise ConversionError("the checkpoint was written on a big-endian machine: not supported")
