"""Reading and writing models: what a folder must hold, and how it is checked.

A folder, local or on the Hub, holds `config.json`, `model.safetensors`, `golden.safetensors`, a
card `README.md` and usually a `recipe.yaml`. Everything is checked before it is used, and nothing
from a file is executed.
"""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save as serialise
from torch import Tensor

from impflow_zoo.lipschitz.certify import Certificate, certify
from impflow_zoo.lipschitz.norms import refresh_norms
from impflow_zoo.models.classes import (
    model_class,
    model_names,
    registered_name,
    require_config,
)
from impflow_zoo.models.config import (
    Config,
    ConfigError,
    convert,
    parse,
    to_json,
)
from impflow_zoo.models.golden import golden_batch
from impflow_zoo.models.layout import (
    CARD,
    CONFIG,
    GOLDEN,
    LOG,
    WEIGHTS,
    Files,
    WeightsError,
    optional_path,
    read_safetensors,
    readable,
)
from impflow_zoo.models.writing import write_together
from impflow_zoo.transforms.weights import mismatch

if TYPE_CHECKING:
    from impflow_zoo.models.flow import FlowModel

__all__ = [
    "ConfigFile",
    "description",
    "load_weights",
    "read_config",
    "read_weights",
    "save",
]

FORMAT = 1
PICKLES = ("pytorch_model.bin", "model.pt", "checkpoint.pt")
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


# ------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class ConfigFile:
    """What `config.json` says.

    Arguments:
        model: name of the model class.
        config: what it is made of.
        sha256: checksum of the weights, or None if there are none yet.
        certificate: the Lipschitz bounds at save time.
    """

    model: str
    config: Config
    sha256: str | None = None
    certificate: tuple[Certificate, ...] = field(default=())


@dataclass(frozen=True)
class _Weights:
    sha256: str


def read_config(files: Files) -> ConfigFile:
    """Read and check `config.json`.

    Raises:
        ConfigError: if it is missing, damaged, from a newer version, or does not parse.
    """
    path = optional_path(files, CONFIG)
    if path is None:
        _refuse_pickle(files)
        reason = "not a model of this library"
        if Path(files.name, LOG).is_file():
            reason = "a run keeps a model at its first validation, and it has had none yet"
        raise ConfigError(f"{files.name} has no {CONFIG}: {reason}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{files.name}: {CONFIG} is no valid JSON ({error})") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{files.name}: {CONFIG} holds no JSON object")
    version = data.get("format")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ConfigError(f"{files.name}: {CONFIG} has no valid 'format': not of this library")
    if version > FORMAT:
        raise ConfigError(
            f"{files.name} has format {reprlib.repr(version)}, this version of impflow_zoo reads "
            f"up to {FORMAT}: upgrade impflow_zoo"
        )
    unknown = set(data) - {"format", "model", "config", "weights", "certificate"}
    if unknown:
        raise ConfigError(
            f"{files.name}: unknown key {reprlib.repr(sorted(unknown)[0])} in {CONFIG}"
        )
    try:
        kind = model_class(data.get("model"))
        weights = convert(data.get("weights"), _Weights | None, "weights")
        certificate = convert(data.get("certificate", ()), tuple[Certificate, ...], "certificate")
        config = parse(_with_net(data.get("config")))
        require_config(kind, config)
    except ConfigError as error:
        raise ConfigError(f"{files.name}: {readable(error)}") from None
    return ConfigFile(kind.__name__, config, weights and weights.sha256, certificate)


def _with_net(config: Any) -> Any:
    """A config with the kind of its nets, which files from before there was a choice leave out."""
    if isinstance(config, dict) and config.get("kind") == "tabular":
        return {"net": "spectral", **config}
    return config


def read_weights(files: Files, config_file: ConfigFile) -> dict[str, Tensor]:
    """Read the weights after their checksum.

    Raises:
        WeightsError: if they are missing, damaged or not those that the config records.
    """
    path = optional_path(files, WEIGHTS)
    if path is None:
        _refuse_pickle(files)
        raise WeightsError(f"{files.name} has no {WEIGHTS}: no weights were published with it")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    tensors = read_safetensors(path)
    least, size = config_file.config.least_size, sum(t.numel() for t in tensors.values())
    if least > size:  # before anything of that size is built
        raise WeightsError(
            f"{files.name}: the config asks for {least:.3g} numbers or more, {WEIGHTS} holds "
            f"{size:.3g}: weights of another architecture?"
        )
    if config_file.sha256 is not None and found != config_file.sha256:
        raise WeightsError(
            f"{files.name}: {WEIGHTS} has sha256 {found[:12]}..., the config records "
            f"{config_file.sha256[:12]}...: download it again, or save the model anew"
        )
    return tensors


def _refuse_pickle(files: Files) -> None:
    """Say why weights in a pickle are of no use, where there are some."""
    for filename in PICKLES:
        if files.has(filename):
            raise WeightsError(
                f"{files.name} has no {WEIGHTS}: its weights are a pickle ({filename}), which "
                "could run code and is not opened"
            )


def load_weights(model: torch.nn.Module, weights: dict[str, Tensor], name: str) -> None:
    """Load strictly: every tensor, no other, each of the right shape.

    Raises:
        WeightsError: naming the first tensor that does not fit.
    """
    own = model.state_dict()
    problem = mismatch(own, weights)
    if problem is not None:
        raise WeightsError(f"{name}: {readable(problem)}")
    for key, tensor in weights.items():
        fitting = _FLOATS if own[key].is_floating_point() else (own[key].dtype,)
        if tensor.dtype not in fitting:
            raise WeightsError(
                f"{name}: {key} is of type {tensor.dtype}, one of {fitting} is needed"
            )
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise WeightsError(f"{name}: {key} holds NaN or infinity")
    dtypes = {t.dtype for t in weights.values() if t.is_floating_point()}
    if len(dtypes) == 1:
        model.to(torch.promote_types(dtypes.pop(), torch.float32))  # roots need no less
    model.load_state_dict(weights, strict=True)


# ------------------------------------------------------------------------------------- writing


def save(
    model: FlowModel,
    folder: Path,
    card: str | None = None,
    *,
    name: str | None = None,
) -> None:
    """Write a model's files, all of them or none.

    Arguments:
        model: the model; its power vectors are brought to convergence.
        folder: where to.
        card: text of the card; None keeps one that is there, or writes a minimal one.
        name: what the minimal card loads, the folder's name if None.

    Raises:
        WeightsError: if the folder is a file, a weight is not finite or in half precision, or the
            model is no longer what its config makes.
    """
    kind = _check_kind(model)
    if folder.exists() and not folder.is_dir():
        raise WeightsError(f"{folder} is a file: a model is saved into a folder")
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise WeightsError(f"{key} holds NaN or infinity: such a model is not saved")
        if tensor.dtype in (torch.float16, torch.bfloat16):
            raise WeightsError(
                f"{key} is in {tensor.dtype}, in which norms cannot be found: save model.float()"
            )
    refresh_norms(model)
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    content = serialise(weights, metadata={"format": "pt"})
    sha256 = hashlib.sha256(content).hexdigest()
    text = description(kind, model.config, sha256, certify(model))
    golden = serialise(golden_batch(model), metadata={"format": "pt"})
    contents = {WEIGHTS: content, GOLDEN: golden, CONFIG: text}
    if card is None and not (folder / CARD).exists():
        card = default_card(kind, name or folder.resolve().name)
    if card is not None:
        contents[CARD] = card.encode()
    folder.mkdir(parents=True, exist_ok=True)
    write_together({folder / name: data for name, data in contents.items()})


def description(
    model: str, config: Config, sha256: str | None = None, certificate: Iterable[Certificate] = ()
) -> bytes:
    """The content of `config.json`; without weights their checksum is left out."""
    data = {
        "format": FORMAT,
        "model": model,
        "config": to_json(config),
        "weights": None if sha256 is None else {"sha256": sha256},
        "certificate": [vars(c) for c in certificate],
    }
    return (json.dumps(data, indent=2) + "\n").encode()


def _check_kind(model: FlowModel) -> str:
    """The name of the class that is to load a model: its own, or that which it derives from.

    Raises:
        WeightsError: if its tensors are not those which that class makes of its config.
    """
    kind = registered_name(type(model))
    if kind is None:
        raise WeightsError(
            f"a {type(model).__name__} derives from none of {', '.join(model_names())}: "
            "register_model makes it one of them"
        )
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        expected = model_class(kind)(model.config).state_dict()
    problem = mismatch(expected, model.state_dict())
    if problem:
        what = problem.removesuffix(": weights of another architecture?")
        raise WeightsError(
            f"{what}: the folder could not be loaded again, as {kind} makes other tensors "
            "of the config (is there another net in place, a compiled one, a sub-class's own?)"
        )
    return kind


def default_card(kind: str, name: str) -> str:
    """A minimal card for a model that users save themselves."""
    return (
        "---\nlibrary_name: impflow_zoo\ntags:\n- normalizing-flow\n---\n\n"
        f"# {kind}\n\n```python\nfrom impflow_zoo import {kind}\n\n"
        f"model = {kind}.from_pretrained({json.dumps(name)})\n```\n"
    )
