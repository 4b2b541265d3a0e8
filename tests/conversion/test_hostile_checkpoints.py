"""Whatever a checkpoint holds, it ends in a model or in one line, soon and in little memory."""

from __future__ import annotations

import os
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import read_fixture, write, write_fixture
from support.hostile import answer_or_none, little_memory

from conversion.convert import Converted, convert
from conversion.pickles import ConversionError


@pytest.fixture(scope="module", autouse=True)
def _little_memory() -> Iterator[None]:
    with little_memory():
        yield


def refused(path: Path, message: str) -> None:
    assert answer_or_none(convert, path) is None
    with pytest.raises(ConversionError, match=message):
        convert(path)


def object_of_many_values() -> torch.nn.Module:
    """An object in a few bytes whose text would be 2^40 words long."""
    value: Any = ("swish",)
    for _ in range(40):
        value = (value, value)
    layer = torch.nn.Identity()
    layer.value = value
    return layer


@pytest.mark.parametrize("setting", ["act", "nblocks", "batchnorm", "imagesize", "coeff"])
def test_settings_that_would_take_for_ever_to_print(setting, tmp_path):
    args, state, _, _ = read_fixture("toy_resflow")
    path = write(tmp_path / "a.pth", {**args, setting: object_of_many_values()}, state)
    refused(path, f"not represented here: .*{setting}.*Standin")


@pytest.mark.parametrize(
    "key",
    ["chain." + "9" * 5000 + ".bias", "chain.0" + ".nnet" * 100_000, "." * 500_000],
    ids=["digits", "nets", "dots"],
)
def test_names_without_end(key, tmp_path):
    args, state, _, _ = read_fixture("toy_resflow")
    refused(write(tmp_path / "a.pth", args, {**state, key: torch.ones(1)}), "a name of .* char")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_one_storage_for_all_tensors(legacy, tmp_path):
    args, state, _, _ = read_fixture("toy_resflow")
    floats = torch.zeros(1_000_000)
    views = {
        key: floats[: tensor.numel()].view(tensor.shape) if tensor.is_floating_point() else tensor
        for key, tensor in state.items()
    }
    refused(write(tmp_path / "a.pth", args, views, legacy=legacy), "tensors share storages")


def test_an_entry_that_claims_to_be_larger_than_the_file(tmp_path):
    path = write_fixture(tmp_path, "toy_resflow")
    content = bytearray(path.read_bytes())
    entry = content.find(b"PK\x01\x02")  # of data.pkl
    struct.pack_into("<II", content, entry + 20, 2**31 - 1, 2**31 - 1)
    path.write_bytes(content)
    refused(path, "data.pkl is larger than the file")


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path(os.devnull), Path("/dev/zero")):
        refused(path, "it is a pipe or a device")
    refused(tmp_path, "cannot be read: Is a directory")


SNIPPETS = [
    *(b"0", b"2", b"(", b"t", b"}", b"]", b"s", b"u", b"e", b"a", b"R", b"b", b"Q", b"N", b")"),
    *(b"h\x00", b"q\x00", b"\x85", b"\x86", b"K\x01", b"\x88", b".", b"\x81"),
    b"\x8a\xff" + b"\x7f" * 255,
    b"X\x05\x00\x00\x00chain",
    b"X" + struct.pack("<I", 5000) + b"9" * 5000,
    b"ctorch.nn\nLinear\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch\nFloatStorage\n",
    b"G" + struct.pack(">d", float("nan")),
    b"K\x01\x85q\x00" + 40 * b"h\x00h\x00\x86q\x00",
]


def changed(content: bytes, draws: random.Random) -> bytes:
    """A text with a few bytes replaced, taken out, doubled, or put in."""
    data = bytearray(content)
    for _ in range(draws.randint(1, 4)):
        start = draws.randrange(len(data))
        end = start + draws.choice((0, 1, 1, 2, 8, 40))
        match draws.randrange(4):
            case 0:
                data[start] = draws.randrange(256)
            case 1:
                del data[start:end]
            case 2:
                data[start:start] = data[start:end]
            case 3:
                data[start:end] = draws.choice(SNIPPETS)
    return bytes(data)


def changed_zip(path: Path, draws: random.Random) -> bytes:
    """The archive, either its objects or any of its bytes changed."""
    if draws.random() < 0.3:
        whole = path.read_bytes()
        cut = max(0, len(whole) - 3000) if draws.random() < 0.7 else 0  # where the list of it is
        return whole[:cut] + changed(whole[cut:], draws)
    copy = path.with_suffix(".zip")
    with zipfile.ZipFile(path) as before, zipfile.ZipFile(copy, "w") as after:
        for name in before.namelist():
            content = before.read(name)
            objects = name.endswith("data.pkl")
            after.writestr(name, changed(content, draws) if objects else content)
    return copy.read_bytes()


def changed_row(path: Path, draws: random.Random) -> bytes:
    """The older format, whose objects come first."""
    whole = path.read_bytes()
    return changed(whole[: len(whole) // 8], draws) + whole[len(whole) // 8 :]


def check(folder: Path, draws: random.Random, count: int) -> None:
    zipped = write_fixture(folder, "toy_resflow")
    row = write_fixture(folder, "toy_impflow", legacy=True)
    makers: list[Callable[[], bytes]] = [
        lambda: changed_zip(zipped, draws),
        lambda: changed_row(row, draws),
    ]
    found: list[Converted | None] = []
    for number in range(count):
        path = folder / "changed.pth"
        path.write_bytes(makers[number % 2]())
        found.append(answer_or_none(convert, path))
    assert 0 < found.count(None) < count  # some of them are models still


def test_any_changed_checkpoint(tmp_path):
    check(tmp_path, random.Random(0), 60)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")  # of pickletools
def test_many_changed_checkpoints(tmp_path):
    check(tmp_path, random.Random(1), 10_000)
