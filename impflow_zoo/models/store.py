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
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
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
from impflow_zoo.models.hub import HubFiles
from impflow_zoo.numerics.logdet import LogDet
from impflow_zoo.numerics.solve import Solver
from impflow_zoo.transforms.weights import mismatch

if TYPE_CHECKING:
    from impflow_zoo.models.flow import FlowModel

__all__ = ["ConfigFile", "Files", "WeightsError", "open_files", "read_config", "save"]

FORMAT = 1
CONFIG, RECIPE, CARD = "config.json", "recipe.yaml", "README.md"
WEIGHTS, GOLDEN, TEST_ROWS = "model.safetensors", "golden.safetensors", "test.parquet"
PICKLES = ("pytorch_model.bin", "model.pt", "checkpoint.pt")
MODEL_NAMES = ("ImpFlow", "ResFlow")
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
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

    def has(self, filename: str) -> bool:
        """Whether the model has such a file, found out without fetching it."""


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

    def has(self, filename: str) -> bool:
        return (self.folder / filename).is_file()


def open_files(
    model: str | os.PathLike[str], *, revision: str | None = None, **options: Any
) -> Files:
    """The files of a local folder or of a Hub repository (`id` or `id@revision`).

    Arguments:
        model: folder or id.
        revision: branch, tag or commit on the Hub.
        options: as in `HubFiles`.

    Raises:
        ModelError: if it is neither.
    """
    name = os.fspath(model)
    if os.path.isdir(name):
        if revision is not None:
            raise ModelError(f"{name} is a folder and has no revisions: leave revision= out")
        return _Folder(Path(name))
    if "@" in name and revision is None:
        name, revision = name.rsplit("@", 1)
    return HubFiles(name, revision=revision, **options)


def optional_path(files: Files, filename: str) -> Path | None:
    """The path of a file the model may lack.

    Raises:
        LocalEntryNotFoundError: if the Hub cannot be asked and the cache does not know.
    """
    try:
        return files.path(filename)
    except LocalEntryNotFoundError:
        raise
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
    path = optional_path(files, CONFIG)
    if path is None:
        _refuse_pickle(files)
        raise ConfigError(f"{files.name} has no {CONFIG}: not a model of this library")
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
    model = data.get("model")
    if model not in MODEL_NAMES:
        raise ConfigError(
            f"{files.name}: unknown model {reprlib.repr(model)}, "
            f"this version knows {', '.join(MODEL_NAMES)}"
        )
    try:
        weights = convert(data.get("weights"), _Weights | None, "weights")
        certificate = convert(data.get("certificate", ()), tuple[Certificate, ...], "certificate")
        config = parse(data.get("config"))
    except ConfigError as error:
        raise ConfigError(f"{files.name}: {_said(error)}") from None
    return ConfigFile(model, config, weights and weights.sha256, certificate)


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


def _said(problem: object) -> str:
    """A problem in one line that fits a screen, whatever the file put into it."""
    text = "".join(c if c.isprintable() else " " for c in str(problem))
    return text if len(text) <= 300 else f"{text[:300]}..."


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        WeightsError: if the file is truncated or not in that format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, ValueError, OSError) as error:
        raise WeightsError(f"{path.name} is truncated or damaged: {_said(error)}") from None


def load_weights(model: torch.nn.Module, weights: dict[str, Tensor], name: str) -> None:
    """Load strictly: every tensor, no other, each of the right shape.

    Raises:
        WeightsError: naming the first tensor that does not fit.
    """
    own = model.state_dict()
    problem = mismatch(own, weights)
    if problem is not None:
        raise WeightsError(f"{name}: {_said(problem)}")
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
        model.to(dtypes.pop())
    model.load_state_dict(weights, strict=True)


# ------------------------------------------------------------------------------------- writing


def save(
    model: FlowModel, folder: Path, card: str | None = None, *, name: str | None = None
) -> None:
    """Write a model's files, all of them or none.

    Arguments:
        model: the model; its power vectors are brought to convergence.
        folder: where to.
        card: text of the card; None keeps one that is there, or writes a minimal one.
        name: what the minimal card loads, the folder's name if None.
    """
    refresh_norms(model)
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    content = serialise(weights, metadata={"format": "pt"})
    sha256 = hashlib.sha256(content).hexdigest()
    text = description(type(model).__name__, model.config, sha256, certify(model))
    golden = serialise(golden_batch(model), metadata={"format": "pt"})
    contents = {WEIGHTS: content, GOLDEN: golden, CONFIG: text}
    if card is None and not (folder / CARD).exists():
        card = default_card(model, name or folder.name)
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


def default_card(model: FlowModel, name: str) -> str:
    """A minimal card for a model that users save themselves."""
    kind = type(model).__name__
    return (
        "---\nlibrary_name: impflow_zoo\ntags:\n- normalizing-flow\n---\n\n"
        f"# {kind}\n\n```python\nfrom impflow_zoo import {kind}\n\n"
        f"model = {kind}.from_pretrained({json.dumps(name)})\n```\n"
    )


# ------------------------------------------------------------------------------------- checking


@torch.no_grad()
def golden_batch(model: FlowModel, rows: int = _GOLDEN_ROWS) -> dict[str, Tensor]:
    """A few inputs with their latents and log-probabilities, computed in float64."""
    double = _double_copy(model)
    generator = torch.Generator().manual_seed(0)
    size = int(torch.tensor(model.config.shape).prod())
    noise = torch.randn(rows, size, generator=generator, dtype=torch.float64)
    context = None
    if model.config.context_features:
        context = torch.randn(
            rows, model.config.context_features, generator=generator, dtype=torch.float64
        )
    x = decode(double.transform, noise, context)
    # Inputs as users have them: an image's may lie out of [0, 1] as it is.
    x = double.dequantise(double.to_data(x), torch.full_like(x, 0.5))
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
    try:
        answers = {"log_prob": double.log_prob(x, context)}  # which checks its input
        answers["latents"] = double.transform(x, context)[0]
    except ValueError as error:
        raise WeightsError(f"{files.name}: {GOLDEN} does not fit the model: {error}") from None
    for key, value in answers.items():
        expected = golden[key]
        if len(x) == 0 or expected.shape != value.shape or expected.dtype != value.dtype:
            raise WeightsError(f"{files.name}: golden {key} are missing or of another shape")
        if not torch.allclose(value, expected, rtol=_GOLDEN_RTOL, atol=_GOLDEN_RTOL):
            worst = float((value - expected).abs().max())
            raise WeightsError(f"{files.name}: golden {key} differ by up to {worst:.2e}")
    _check_certificate(model, files.name, config_file)


def _check_certificate(model: FlowModel, name: str, config_file: ConfigFile) -> None:
    recorded = {c.name: c.bound for c in config_file.certificate}
    found = {c.name: c for c in certify(model)}
    if recorded.keys() != found.keys():
        raise WeightsError(f"{name}: the certificate in {CONFIG} is of other nets than the model's")
    for net, bound in recorded.items():
        proven = found[net].bound
        if bound is not None and (proven is None or proven > bound * (1 + 1e-6)):
            raise WeightsError(f"{name}: {found[net]}, but {CONFIG} records {bound}")


def _double_copy(model: FlowModel) -> FlowModel:
    """A copy whose answers are those of the weights: in float64, with default settings."""
    double = copy.deepcopy(model).double().cpu().eval()
    refresh_norms(double)  # from the vectors of the file, whether these were settled before or not
    for i, block in enumerate(double.blocks()):
        block.logdet, block.solver = LogDet().seeded(i), Solver()
    return double
