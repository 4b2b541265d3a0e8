"""Files of a model: where they are, what they must hold, how they are written.

A folder, local or on the Hub, holds `config.json`, `model.safetensors`, `golden.safetensors`, a
card `README.md` and usually a `recipe.yaml`. Everything is checked before it is used, and nothing
from a file is executed.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    LocalEntryNotFoundError,
)
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from impflow_zoo.lipschitz.certify import Certificate, certify
from impflow_zoo.lipschitz.norms import refresh_norms
from impflow_zoo.models.build import decode
from impflow_zoo.models.config import (
    Config,
    ConfigError,
    ModelError,
    convert,
    parse,
    to_json,
)
from impflow_zoo.transforms.weights import mismatch

if TYPE_CHECKING:
    from impflow_zoo.models.flow import FlowModel

__all__ = ["ConfigFile", "Files", "WeightsError", "open_files", "read_config", "save"]

FORMAT = 1
CONFIG, RECIPE, CARD = "config.json", "recipe.yaml", "README.md"
WEIGHTS, GOLDEN, TEST_ROWS = "model.safetensors", "golden.safetensors", "test.parquet"
MODEL_NAMES = ("ImpFlow", "ResFlow")
_GOLDEN_ROWS = 8
_GOLDEN_RTOL = 1e-5


class WeightsError(ModelError):
    """Weights are missing, incomplete, of another shape, damaged, or not the recorded ones."""


class Files(Protocol):
    """The files of one model, by name."""

    @property
    def name(self) -> str:
        """What messages call the model: its folder or Hub id."""

    def path(self, filename: str) -> Path:
        """A local path of the file.

        Raises:
            FileNotFoundError or EntryNotFoundError: if the model has no such file.
        """


@dataclass(frozen=True)
class _Folder:
    folder: Path

    @property
    def name(self) -> str:
        return str(self.folder)

    def path(self, filename: str) -> Path:
        path = self.folder / filename
        if not path.is_file():
            raise FileNotFoundError(f"{self.folder} has no {filename}")
        return path


@dataclass(frozen=True)
class _HubFiles:
    name: str
    options: dict[str, Any]

    def path(self, filename: str) -> Path:
        return Path(hf_hub_download(self.name, filename, **self.options))


def open_files(
    model: str | os.PathLike[str], *, revision: str | None = None, **options: Any
) -> Files:
    """The files of a local folder or of a Hub repository (`id` or `id@revision`).

    Raises:
        ModelError: if it is neither.
    """
    name = os.fspath(model)
    if os.path.isdir(name):
        return _Folder(Path(name))
    if "@" in name and revision is None:
        name, revision = name.rsplit("@", 1)
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or os.path.exists(name):
        raise ModelError(f"{name!r} is neither a folder nor a Hub id of the form 'owner/name'")
    return _HubFiles(name, {"revision": revision, **options})


def optional_path(files: Files, filename: str) -> Path | None:
    """The path of a file the model may lack."""
    try:
        return files.path(filename)
    except (FileNotFoundError, EntryNotFoundError):
        return None


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
    try:
        path = files.path(CONFIG)
    except (FileNotFoundError, EntryNotFoundError) as error:
        if isinstance(error, FileNotFoundError) and not isinstance(error, EntryNotFoundError):
            raise ConfigError(
                f"{files.name} has no {CONFIG}: not a model of this library"
            ) from None
        raise
    except HFValidationError as error:
        raise ModelError(f"{files.name!r} is no Hub id: {error}") from None
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
            f"{files.name} has format {version}, this version of impflow_zoo reads up to {FORMAT}: "
            "upgrade impflow_zoo"
        )
    unknown = set(data) - {"format", "model", "config", "weights", "certificate"}
    if unknown:
        raise ConfigError(f"{files.name}: unknown key {sorted(unknown)[0]!r} in {CONFIG}")
    model = data.get("model")
    if model not in MODEL_NAMES:
        raise ConfigError(
            f"{files.name}: unknown model {model!r}, this version knows {', '.join(MODEL_NAMES)}"
        )
    try:
        weights = convert(data.get("weights"), _Weights | None, "weights")
        certificate = convert(data.get("certificate", ()), tuple[Certificate, ...], "certificate")
        config = parse(data.get("config"))
    except ConfigError as error:
        raise ConfigError(f"{files.name}: {error}") from None
    return ConfigFile(model, config, weights and weights.sha256, certificate)


def read_weights(files: Files, config_file: ConfigFile) -> dict[str, Tensor]:
    """Read the weights after their checksum.

    Raises:
        WeightsError: if they are missing, damaged or not those that the config records.
    """
    try:
        path = files.path(WEIGHTS)
    except LocalEntryNotFoundError:  # offline: nobody knows what the Hub has
        raise
    except (FileNotFoundError, EntryNotFoundError):
        reason = "no weights were published with it"
        if optional_path(files, "pytorch_model.bin") is not None:
            reason = "its weights are a pickle, which could run code and is not opened"
        raise WeightsError(f"{files.name} has no {WEIGHTS}: {reason}") from None
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    tensors = read_safetensors(path)
    if config_file.sha256 is not None and found != config_file.sha256:
        raise WeightsError(
            f"{files.name}: {WEIGHTS} has sha256 {found[:12]}..., the config records "
            f"{config_file.sha256[:12]}...: download it again, or save the model anew"
        )
    return tensors


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        WeightsError: if the file is truncated or not in that format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, ValueError, OSError) as error:
        raise WeightsError(f"{path.name} is truncated or damaged: {error}") from None


def load_weights(model: torch.nn.Module, weights: dict[str, Tensor], name: str) -> None:
    """Load strictly: every tensor, no other, each of the right shape.

    Raises:
        WeightsError: naming the first tensor that does not fit.
    """
    problem = mismatch(model.state_dict(), weights)
    if problem is not None:
        raise WeightsError(f"{name}: {problem}")
    for key, tensor in weights.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise WeightsError(f"{name}: {key} holds NaN or infinity")
    dtypes = {t.dtype for t in weights.values() if t.is_floating_point()}
    if len(dtypes) == 1:
        model.to(dtypes.pop())
    model.load_state_dict(weights, strict=True)


# ------------------------------------------------------------------------------------- writing


def save(model: FlowModel, folder: Path, card: str | None = None) -> None:
    """Write a model's files, all of them or none."""
    refresh_norms(model)
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    content = serialise(weights, metadata={"format": "pt"})
    description = {
        "format": FORMAT,
        "model": type(model).__name__,
        "config": to_json(model.config),
        "weights": {"sha256": hashlib.sha256(content).hexdigest()},
        "certificate": [vars(c) for c in certify(model)],
    }
    text = json.dumps(description, indent=2) + "\n"
    golden = serialise(golden_batch(model), metadata={"format": "pt"})
    contents = {WEIGHTS: content, GOLDEN: golden, CONFIG: text.encode()}
    if card is None and not (folder / CARD).exists():
        card = default_card(model)
    if card is not None:
        contents[CARD] = card.encode()
    folder.mkdir(parents=True, exist_ok=True)
    write_together({folder / name: data for name, data in contents.items()})


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename it: never half a file."""
    write_together({path: content})


def write_together(contents: dict[Path, bytes]) -> None:
    """Write files that belong together: a full disk or an interrupt leaves the old ones.

    All contents are on disk under temporary names before the first is renamed.
    """
    waiting = {path.with_name(f".{path.name}.{os.getpid()}.tmp"): path for path in contents}
    try:
        for temporary, path in waiting.items():
            with open(temporary, "wb") as file:
                file.write(contents[path])
                file.flush()
                os.fsync(file.fileno())
        try:
            _rename(waiting)
        except KeyboardInterrupt:
            _rename(waiting)  # half of the names would be a model of two minds
            raise
    finally:
        for temporary in waiting:
            temporary.unlink(missing_ok=True)


def _rename(waiting: dict[Path, Path]) -> None:
    for temporary, path in waiting.items():
        if temporary.exists():
            os.replace(temporary, path)


def default_card(model: FlowModel) -> str:
    """A minimal card for a model that users save themselves."""
    name = type(model).__name__
    return (
        "---\nlibrary_name: impflow_zoo\ntags:\n- normalizing-flow\n---\n\n"
        f"# {name}\n\n```python\nfrom impflow_zoo import {name}\n\n"
        f'model = {name}.from_pretrained("path/or/id")\n```\n'
    )


# ------------------------------------------------------------------------------------- checking


@torch.no_grad()
def golden_batch(model: FlowModel) -> dict[str, Tensor]:
    """A few inputs with their latents and log-probabilities, computed in float64."""
    double = _double_copy(model)
    generator = torch.Generator().manual_seed(0)
    size = int(torch.tensor(model.config.shape).prod())
    noise = torch.randn(_GOLDEN_ROWS, size, generator=generator, dtype=torch.float64)
    context = None
    if model.config.context_features:
        context = torch.randn(
            _GOLDEN_ROWS, model.config.context_features, generator=generator, dtype=torch.float64
        )
    x = decode(double.transform, noise, context)
    z, _ = double.transform(x, context)
    batch = {"inputs": x, "latents": z, "log_prob": double.log_prob(x, context)}
    if context is not None:
        batch["context"] = context
    return {key: value.contiguous().clone() for key, value in batch.items()}


@torch.no_grad()
def verify(model: FlowModel, files: Files, config_file: ConfigFile) -> None:
    """Reproduce the golden batch and check the certificate.

    Raises:
        WeightsError: if an answer differs, or a bound is above the recorded one.
    """
    path = optional_path(files, GOLDEN)
    if path is None:
        raise WeightsError(f"{files.name} has no {GOLDEN}: nothing to verify against")
    golden, double = read_safetensors(path), _double_copy(model)
    absent = {"inputs", "latents", "log_prob"} - golden.keys()
    if absent:
        raise WeightsError(f"{files.name}: {GOLDEN} lacks {sorted(absent)[0]!r}")
    x, context = golden["inputs"], golden.get("context")
    answers = {"latents": double.transform(x, context)[0], "log_prob": double.log_prob(x, context)}
    for key, value in answers.items():
        if not torch.allclose(value, golden[key], rtol=_GOLDEN_RTOL, atol=_GOLDEN_RTOL):
            worst = float((value - golden[key]).abs().max())
            raise WeightsError(f"{files.name}: golden {key} differ by up to {worst:.2e}")
    recorded = {c.name: c.bound for c in config_file.certificate}
    for c in certify(model):
        bound = recorded.get(c.name)
        if c.bound is not None and (bound is None or c.bound > bound * (1 + 1e-6)):
            raise WeightsError(f"{files.name}: {c}, but the config records {bound}")


def _double_copy(model: FlowModel) -> FlowModel:
    return copy.deepcopy(model).double().cpu().eval()
