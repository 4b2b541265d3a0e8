"""Files made by nobody we know: each loads, or ends in the library's own error."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.small_models import make, rows

from impflow_zoo import ResFlow, TabularConfig, create_model
from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.folder import CONFIG, GOLDEN, WEIGHTS
from impflow_zoo.models.image_config import ImageConfig
from impflow_zoo.published import PublishedImageConfig

_HEADROOM = 4 * 2**30  # bytes of address space a load may take on top; absurd sizes take more
_FEW = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
_MANY = settings(_FEW, max_examples=1000)


class Files(dict[str, bytes]):
    """Contents by name; not printed when a test fails."""

    def __repr__(self) -> str:
        return f"Files({', '.join(self)})"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A model of a table; it names no checksum, so that weights are looked at whatever they are."""
    torch.manual_seed(0)
    return _saved(make(blocks=1, context_features=1), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def image_files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A model of images, likewise."""
    torch.manual_seed(0)
    config = ImageConfig(channels=1, image_size=(2, 2), blocks=(1, 1), width=2)
    return _saved(ResFlow(config).eval(), tmp_path_factory.mktemp("model"))


def _saved(model: FlowModel, folder: Path) -> Files:
    model.save_pretrained(folder)
    config = json.loads((folder / CONFIG).read_text())
    del config["weights"]
    contents = {name: (folder / name).read_bytes() for name in (WEIGHTS, GOLDEN)}
    return Files({CONFIG: json.dumps(config).encode(), **contents})


@pytest.fixture(scope="module", autouse=True)
def _little_memory() -> Iterator[None]:
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _HEADROOM, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def loads_or_says_why(folder: Path, files: dict[str, bytes]) -> bool:
    """Whether the files make a model; any error but the library's own fails the test."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    try:
        model = create_model(folder)
    except ModelError as error:
        said = str(error)
    else:
        assert all(bool(t.isfinite().all()) for t in model.parameters())
        return True
    assert len(said) < 1000
    assert said.isprintable()
    return False


# ---------------------------------------------------------------------------------- config.json

NUMBERS = st.one_of(
    st.integers(-2, 70),
    st.integers(min_value=-(10**400), max_value=10**400),
    st.sampled_from([2**31, 2**62, 2**63, 2**64, 10**9, 10**5]),
    st.floats(),
)
WORDS = st.one_of(
    st.text(max_size=5),
    st.sampled_from(
        ["ImpFlow", "ResFlow", "image", "tabular", "sin", "exact", "__class__", "\ud800"]
    ),
    st.just("x" * 5000),
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, WORDS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a tree of JSON."""
    keys = value if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


@st.composite
def changed(draw: st.DrawFn, original: bytes) -> bytes:
    """JSON with a few places replaced, added or taken away."""
    data = json.loads(original)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(data))
        container, key = draw(st.sampled_from(places)) if places else (data, "config")
        what = draw(st.sampled_from(["replace", "replace", "add", "delete"]))
        if what == "delete":
            del container[key]
        elif what == "add" and isinstance(container, dict):
            container[draw(st.one_of(st.text(max_size=8), st.just("fetaures")))] = draw(VALUES)
        else:
            container[key] = draw(VALUES)
    return json.dumps(data).encode()


def check_config(files: dict[str, bytes], folder: Path, data: st.DataObject) -> None:
    config = data.draw(changed(files[CONFIG]))
    loads_or_says_why(folder, {**files, CONFIG: config})


@given(data=st.data())
@_FEW
def test_configs(files, image_files, tmp_path, data):
    check_config(data.draw(st.sampled_from([files, image_files])), tmp_path, data)


@pytest.mark.slow
@given(data=st.data())
@_MANY
def test_many_configs(files, image_files, tmp_path, data):
    check_config(data.draw(st.sampled_from([files, image_files])), tmp_path, data)


@given(text=st.one_of(st.binary(max_size=50), VALUES.map(lambda v: json.dumps(v).encode())))
@_FEW
def test_what_is_no_config_at_all(files, tmp_path, text):
    assert not loads_or_says_why(tmp_path, {**files, CONFIG: text})


def _nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"features": 2', '"features": 1000000000'),
        ('"features": 2', '"features": 3000000'),
        ('"blocks": 1', '"blocks": 1000000000000'),
        ('"hidden_features": [8, 8]', f'"hidden_features": [{", ".join(["8"] * 20000)}]'),
        ('"hidden_features": [8, 8]', '"hidden_features": [8, 4000000000]'),
        ('"hidden_features": [8, 8]', f'"hidden_features": {_nested(900)}'),
        ('"hidden_features": [8, 8]', f'"hidden_features": {_nested(100000)}'),
        ('"context_features": 1', '"context_features": 1000000000000'),
        ('"lipschitz": 0.8', '"lipschitz": NaN'),
        ('"lipschitz": 0.8', '"lipschitz": 1e999'),
        ('"seed": 0', f'"seed": {"9" * 400}'),
        ('"seed": 0', f'"seed": {"9" * 9000}'),
        ('"activation": "halfsin"', '"activation": "__import__"'),
        ('"kind": "tabular"', '"kind": "image"'),
        ('"model": "ImpFlow"', '"model": "torch.nn.Linear"'),
    ],
)
def test_absurd_configs_are_refused(files, tmp_path, old, new):
    text = files[CONFIG].decode()
    assert old in text
    config = text.replace(old, new, 1).encode()
    assert not loads_or_says_why(tmp_path, {**files, CONFIG: config})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"image_size": [2, 2]', '"image_size": [1048576, 1048576]'),
        ('"blocks": [1, 1]', '"blocks": [1, 1000000000]'),
        ('"width": 2', '"width": 2000000000'),
        ('"kernels": [3, 1, 3]', '"kernels": [3, 99999999, 3]'),
        ('"kernels": [3, 1, 3]', '"kernels": [3, 1, 99999999]'),
        ('"squeeze_first": false', '"fc_blocks": 1000000000'),
    ],
)
def test_absurd_image_configs_are_refused(image_files, tmp_path, old, new):
    text = image_files[CONFIG].decode()
    assert old in text
    config = text.replace(old, new, 1).encode()
    assert not loads_or_says_why(tmp_path, {**image_files, CONFIG: config})


@pytest.mark.parametrize(
    "config",
    [
        TabularConfig(features=3, blocks=2, hidden_features=(5, 7), context_features=2),
        TabularConfig(features=3, blocks=1, hidden_features=()),
        TabularConfig(
            features=3, blocks=1, hidden_features=(3,), context_features=2, embedding_net=(50, 4)
        ),
        TabularConfig(features=40, blocks=1, hidden_features=(1,), whiten=True),
        ImageConfig(image_size=(4, 4), blocks=(1, 2), width=4),
        ImageConfig(image_size=(4, 4), blocks=(1, 1, 1), width=1, squeeze_first=False, whiten=True),
        ImageConfig(image_size=(4, 4), blocks=(1, 1), width=4, factor_out=True, net="dense"),
        ImageConfig(image_size=(1, 1), channels=1, blocks=(1,), kernels=(1,), actnorm=False),
        ImageConfig(image_size=(2, 2), blocks=(1,), kernels=(3,), net="dense", actnorm=False),
        PublishedImageConfig(image_size=(2, 2), blocks=(1,), width=2, fc_blocks=1, fc_hidden=(3,)),
        PublishedImageConfig(image_size=(2, 2), blocks=(1,), width=2, norm="ffff"),
    ],
)
def test_no_model_is_smaller_than_its_least_size(config):
    """Else a model that was saved could not be loaded."""
    size = sum(t.numel() for t in ResFlow(config).state_dict().values())
    assert 0.1 * size < config.least_size <= size


# ------------------------------------------------------------------------------ safetensors


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
@_FEW
def test_headers(files, tmp_path, data):
    check_weights(files, tmp_path, data)


@pytest.mark.slow
@given(data=st.data())
@_MANY
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
