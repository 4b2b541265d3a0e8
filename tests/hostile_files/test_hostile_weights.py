"""Weights and golden batches that we did not write load, or end in the library's own error."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.hostile import FEW, MANY, changed, loads_or_says_why
from support.small_models import rows

from impflow_zoo import create_model
from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.filenames import CONFIG, GOLDEN, WEIGHTS


def split_file(content: bytes) -> tuple[bytes, bytes]:
    size = int.from_bytes(content[:8], "little")
    return content[8 : 8 + size], content[8 + size :]


def join_file(header: bytes, body: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + body


DTYPES = ["F64", "F32", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "C64", "F4", "X"]


@st.composite
def changed_header(draw: st.DrawFn, original: bytes) -> bytes:
    header, body = split_file(original)
    data = json.loads(header)
    if draw(st.booleans()):
        return join_file(draw(changed(header)), body)
    name = draw(st.sampled_from(sorted(data.keys() - {"__metadata__"})))
    entry = data[name]
    begin, end = entry["data_offsets"]
    match draw(st.sampled_from(["dtype", "shape", "offsets", "name", "swap"])):
        case "dtype":
            entry["dtype"] = draw(st.sampled_from(DTYPES))
        case "shape":
            entry["shape"] = draw(st.lists(st.sampled_from([0, 1, 2, 8, 2**40, -1]), max_size=5))
        case "offsets":
            entry["data_offsets"] = [begin + draw(st.integers(-9, 9)), end + draw(st.integers())]
        case "name":
            data[draw(st.sampled_from(["../x", "", "flow", name.upper()]))] = data.pop(name)
        case "swap":
            other = draw(st.sampled_from(sorted(data.keys() - {"__metadata__"})))
            data[name], data[other] = data[other], data[name]
    return join_file(json.dumps(data).encode(), body)


@st.composite
def changed_bytes(draw: st.DrawFn, original: bytes) -> bytes:
    content = bytearray(original)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(content) - 1) | st.integers(0, 300))
        content[place] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.integers(0, len(content)) | st.just(len(content)))])


def check_weights(files: dict[str, bytes], folder: Path, data: st.DataObject) -> None:
    original = files[WEIGHTS]
    weights = data.draw(st.one_of(changed_header(original), changed_bytes(original)))
    if loads_or_says_why(folder, {**files, WEIGHTS: weights}):
        assert split_file(weights)[1]  # what loads has the data of a model


@given(data=st.data())
@FEW
def test_headers(files, tmp_path, data):
    check_weights(files, tmp_path, data)


@pytest.mark.slow
@given(data=st.data())
@MANY
def test_many_headers(files, tmp_path, data):
    check_weights(files, tmp_path, data)


@pytest.mark.parametrize("change", [lambda t: t.to(torch.float8_e4m3fn), lambda t: t.int()])
def test_weights_of_a_type_no_model_has(files, tmp_path, change):
    from safetensors.torch import load, save

    tensors = {k: change(t) if t.dim() == 2 else t for k, t in load(files[WEIGHTS]).items()}
    assert not loads_or_says_why(tmp_path, {**files, WEIGHTS: save(tensors)})


def test_a_checksum_stops_what_would_load(files, tmp_path):
    """Bytes changed within the data are weights like any others: the sha256 tells."""
    config = json.loads(files[CONFIG])
    config["weights"] = {"sha256": hashlib.sha256(files[WEIGHTS]).hexdigest()}
    whole = {**files, CONFIG: json.dumps(config).encode()}
    assert loads_or_says_why(tmp_path, whole)
    weights = bytearray(files[WEIGHTS])
    weights[-1] ^= 1
    assert not loads_or_says_why(tmp_path, {**whole, WEIGHTS: bytes(weights)})


def _golden(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[bytes], bytes]:
    def changed_golden(content: bytes) -> bytes:
        from safetensors.torch import load, save

        tensors = load(content)
        change(tensors)
        return save(tensors)

    return changed_golden


@pytest.mark.parametrize(
    "change",
    [
        _golden(lambda t: t.pop("inputs")),
        _golden(lambda t: t.pop("context")),
        _golden(lambda t: t.update(inputs=t["inputs"][:, :1].clone())),
        _golden(lambda t: t.update(inputs=t["inputs"] * torch.nan)),
        _golden(lambda t: t.update(inputs=t["inputs"].long())),
        _golden(lambda t: t.update(latents=t["latents"].float())),
        _golden(lambda t: t.update(log_prob=t["log_prob"][:1].clone())),
        _golden(lambda t: t.update({k: v[:0].clone() for k, v in t.items()})),
        lambda content: content[:20],
    ],
)
def test_golden_batches_that_prove_nothing(files, tmp_path, change):
    assert loads_or_says_why(tmp_path, files)
    assert create_model(tmp_path, verify=True).log_prob(rows(3), torch.zeros(3, 1)).shape == (3,)
    (tmp_path / GOLDEN).write_bytes(change(files[GOLDEN]))
    with pytest.raises(ModelError, match="golden"):
        create_model(tmp_path, verify=True)
