"""Files that are no checkpoints, or more than that: refused in one line, and nothing is written."""

from __future__ import annotations

import os
import pickle
import random
import re
import struct
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import write_fixture
from support.command_line import conversion

from conversion.convert import convert
from conversion.pickles import ConversionError
from impflow_zoo.models.fields import ModelError

MARKER = "it-ran"


class Calls:
    """An object whose pickle calls something."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.reduced = (call, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


def zipped(path: Path, data: bytes, **entries: bytes) -> Path:
    """A zip archive as torch writes it, with any pickle in it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("checkpoint/data.pkl", data)
        archive.writestr("checkpoint/version", "3\n")
        for name, content in entries.items():
            archive.writestr(f"checkpoint/data/{name}", content)
    return path


def marked(path: Path, at: int, value: int) -> Path:
    """A zip archive whose entries are marked, in a byte of their headers, as of another kind.

    The list at the end of the archive has that byte two places later.
    """
    content = bytearray(zipped(path, b"\x80\x02N.").read_bytes())
    for signature, place in ((b"PK\x03\x04", at), (b"PK\x01\x02", at + 2)):
        for match in re.finditer(signature, bytes(content)):
            content[match.start() + place] = value
    return plain(path, bytes(content))


def compressed(path: Path, data: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("checkpoint/data.pkl", data)
    return path


def plain(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def nested_tuples(depth: int = 60, *, listed: bool = False) -> bytes:
    """A dictionary whose one key, or a list whose one member, takes 2^depth steps to hash."""
    twice = b"h\x00h\x00\x86q\x00"
    end = b"]h\x00a." if listed else b"}h\x00K\x01s."
    return b"\x80\x02K\x01\x85q\x00" + depth * twice + end


REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def storage(numel: bytes = b"K\x01") -> bytes:
    """What names a storage in a pickle: a mark, and what follows it."""
    kind = b"X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    return b"(" + kind + b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + numel


def tensor(size: int, shape: bytes, numel: bytes = b"K\x01") -> bytes:
    """A pickle of one tensor that claims a storage of `numel` and any shape."""
    view = b"\x80\x02" + REBUILD + b"(" + storage(numel) + b"tQK\x00" + shape + b"K\x00\x85"
    return view + b"\x89ccollections\nOrderedDict\n)RtR."


def copied_lists() -> bytes:
    """A list of a million, of which a thousand copies are asked for."""
    copy = b"h\x01h\x00\x85R"
    million = b"]q\x00(" + b"N" * 1_000_000 + b"e"
    return b"\x80\x02(" + million + b"cbuiltins\nset\nq\x01" + copy * 1000 + b"t."


def colliding_keys(count: int = 30_000) -> bytes:
    """A dictionary whose keys are numbers with one hash, which Python compares with each other."""
    numbers = (1 + n * (2**61 - 1) for n in range(count))
    items = b"".join(b"\x8a\x0b" + n.to_bytes(11, "little") + b"N" for n in numbers)
    return b"\x80\x02}(" + items + b"u."


def repeated(arguments: bytes, call: bytes, count: int = 20_000) -> bytes:
    """A pickle that uses a tuple again and again, which many needless values make long."""
    return b"\x80\x02(" + arguments + b"N" * 5 * count + b"tq\x00" + call * count + b"t."


def legacy(*pickles: Any, keys: bytes) -> bytes:
    """The older format: magic number, protocol, system, objects, storage keys."""
    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, *pickles)
    return b"".join(pickle.dumps(p, protocol=2) for p in head) + keys


def calls(call: Any, *arguments: Any) -> bytes:
    return pickle.dumps(Calls(call, *arguments), protocol=2)


RUN = (os.system, f"touch {MARKER}")
HUGE = struct.pack("<I", 2**32 - 1)
FILES = {
    "runs a command": (lambda p: zipped(p, calls(*RUN)), f"asks for {os.name}.system"),
    "plain pickle": (lambda p: plain(p, calls(*RUN)), f"asks for {os.name}.system"),
    "older format": (lambda p: plain(p, legacy(Calls(*RUN), keys=b"")), "asks for"),
    "other protocols": (lambda p: zipped(p, pickle.dumps(Calls(*RUN))), "uses PROTO"),
    "first protocol": (
        lambda p: zipped(p, b"cos\nsystem\n(S'touch it'\ntR."),
        "asks for os.system",
    ),
    "evaluates": (lambda p: zipped(p, calls(eval, "1")), "asks for __builtin__.eval"),
    "takes memory": (lambda p: zipped(p, calls(bytearray, 2 * 10**9)), "bytearray"),
    "imports": (lambda p: zipped(p, calls(__import__, "antigravity")), "__import__"),
    "imports by name": (lambda p: zipped(p, b"\x80\x02cantigravity\nfly\n."), "antigravity.fly"),
    "loads a pickle": (lambda p: zipped(p, calls(pickle.loads, "N.")), "pickle.loads"),
    "reaches through an allowed module": (
        lambda p: zipped(p, b"\x80\x02ctorch\nserialization.os\n."),
        "asks for torch.serialization.os",
    ),
    "calls a value": (lambda p: zipped(p, b"\x80\x02K\x01)R."), "cannot be called"),
    "calls a number type": (lambda p: zipped(p, b"\x80\x02ctorch\nFloatStorage\n)R."), "cannot"),
    "extension registry": (lambda p: zipped(p, b"\x80\x02\x82\x01."), "uses EXT1"),
    "huge text": (lambda p: zipped(p, b"\x80\x02X" + HUGE + b"x."), "damaged"),
    "huge text, older format": (lambda p: plain(p, b"\x80\x02X" + HUGE + b"x."), "damaged"),
    "huge memo": (lambda p: zipped(p, b"\x80\x02N" + b"r\xff\xff\xff\xff" + b"."), "no 'args'"),
    "huge shape": (
        lambda p: zipped(p, tensor(1, b"J\xff\xff\xff\x7f\x85"), **{"0": b"\0" * 4}),
        "reaches out of",
    ),
    "shape that is a dictionary": (
        lambda p: zipped(p, tensor(1, b"}K\x01K\x01s"), **{"0": b"\0" * 4}),
        "shape is no list",
    ),
    "hash that takes for ever": (lambda p: zipped(p, nested_tuples()), "no 'args'"),
    "hash of tuples in each other": (
        lambda p: zipped(p, b"\x80\x02N" + b"\x85" * 200_000 + b"q\x00}h\x00K\x01s."),
        "no 'args'",
    ),
    "keys that collide": (lambda p: zipped(p, colliding_keys()), "no 'args'"),
    "list copied again and again": (lambda p: zipped(p, copied_lists()), "no 'args'"),
    "storage that is named again and again": (
        lambda p: zipped(p, repeated(storage(), b"h\x00Q")),
        "storage of an unknown kind",
    ),
    "tensor that is built again and again": (
        lambda p: zipped(
            p,
            repeated(
                REBUILD + b"q\x01(" + storage() + b"tQK\x00K\x01\x85K\x01\x85", b"h\x01h\x00R"
            ),
        ),
        "no 'args'",
    ),
    "dimensions without end": (
        lambda p: zipped(p, tensor(1, b"(" + b"J\xff\xff\xff\x7f" * 100_000 + b"t")),
        "100000 dimensions",
    ),
    "storage key without a hash": (
        lambda p: plain(p, legacy({}, keys=pickle.dumps([[]], protocol=2))),
        "a storage is missing",
    ),
    "storage key that takes for ever": (
        lambda p: plain(p, legacy({}, keys=nested_tuples(listed=True))),
        "a storage is missing",
    ),
    "zip bomb": (lambda p: compressed(p, b"\x80\x02" + b"N0" * 5_000_000 + b"N."), "compressed"),
    "cut pickle": (lambda p: zipped(p, b"\x80\x02}"), "damaged"),
    "noise": (lambda p: plain(p, b"\x80" + bytes(range(256))), "pickle"),
    "text": (lambda p: plain(p, b"hello"), "neither a zip archive nor a pickle"),
    "empty": (lambda p: plain(p, b""), "neither a zip archive nor a pickle"),
    "another archive": (lambda p: zipfile.ZipFile(p, "w").close(), "no data.pkl"),
    "another pickle": (lambda p: zipped(p, pickle.dumps({"a": 1}, protocol=2)), "no 'args'"),
    "weights alone": (lambda p: torch.save({"a": torch.ones(2)}, p), "no 'args'"),
}


@pytest.mark.parametrize(("make", "message"), FILES.values(), ids=FILES)
def test_a_file_is_refused_and_nothing_of_it_runs(make, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "checkpoint.pth")
    start = time.process_time()
    refused = conversion("checkpoint.pth", "out")
    assert time.process_time() - start < 2
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert message in refused.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pth"]
    assert "antigravity" not in sys.modules


def test_the_command_refuses_without_a_traceback(tmp_path, monkeypatch):
    path = zipped(tmp_path / "bad.pth", calls(*RUN))
    monkeypatch.chdir(tmp_path)
    ended = conversion(path, "out")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.count("\n") == 1
    assert ended.err.startswith("conversion: the pickle asks for")
    assert [*tmp_path.iterdir()] == [path]  # no model, and no file of the pickle


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_truncated_file_is_refused_wherever_it_ends(legacy, tmp_path):
    whole = write_fixture(tmp_path, "toy_resflow", legacy=legacy).read_bytes()
    for part in range(1, 20):
        path = plain(tmp_path / "cut.pth", whole[: len(whole) * part // 20])
        with pytest.raises(ConversionError, match="damaged|truncated|neither"):
            convert(path)


def test_a_missing_file_and_averages_that_are_not_there(tmp_path):
    path = write_fixture(tmp_path, "toy_impflow")
    for arguments, message in (
        ([str(tmp_path / "none.pth")], "No such file"),
        ([str(path), "--weights", "ema"], "--weights raw"),
        ([str(path), "--set", "colour=1"], "unknown setting 'colour'"),
        ([str(path), "--set", "colour"], "use the form name=value"),
    ):
        refused = conversion(arguments[0], tmp_path / "out", *arguments[1:])
        assert refused.code == 2
        assert message in refused.err
    assert not (tmp_path / "out").exists()


def refusal(path: Path) -> str:
    """What a conversion says, or nothing; other errors than its own are not caught."""
    try:
        convert(path)
    except (ConversionError, ModelError) as error:
        return str(error)
    return ""


def test_any_flipped_bytes_end_in_one_line_or_in_a_model(tmp_path):
    """The older format has no checksums: every byte of its pickles reaches the reader."""
    whole = write_fixture(tmp_path, "toy_resflow", legacy=True).read_bytes()
    pickles = len(whole) // 8  # numbers make up the rest
    path, refused = tmp_path / "flipped.pth", 0
    for seed in range(60):
        generator, changed = random.Random(seed), bytearray(whole)
        for _ in range(generator.choice((1, 2, 5))):
            changed[generator.randrange(pickles)] = generator.randrange(256)
        path.write_bytes(changed)
        if problem := refusal(path):
            refused += 1
            assert "\n" not in problem
    assert refused > 20


def test_a_wrong_checksum_is_refused(tmp_path):
    path = write_fixture(tmp_path, "toy_resflow")
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        name = max(archive.infolist(), key=lambda entry: entry.file_size).filename
        content[content.find(archive.read(name)) + 100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ConversionError, match="damaged: Bad CRC"):
        convert(path)


def test_a_damaged_name_in_the_archive_is_refused(tmp_path):
    path = write_fixture(tmp_path, "toy_resflow")
    content = bytearray(path.read_bytes())
    entry = content.rfind(b"PK\x01\x02")
    content[entry + 9] |= 8  # names are in UTF-8
    content[entry + 46] = 0xFF
    path.write_bytes(content)
    with pytest.raises(ConversionError, match="damaged"):
        convert(path)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [(6, 1, "is encrypted"), (6, 0x20, "patched data"), (4, 99, "zip file version 9.9")],
)
def test_an_archive_of_an_unknown_kind_is_refused(place, value, message, tmp_path):
    path = marked(tmp_path / "checkpoint.pth", place, value)
    with pytest.raises(ConversionError, match=f"damaged: .*{message}"):
        convert(path)
