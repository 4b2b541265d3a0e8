"""The folder of a model: a run, an entry of the zoo and a snapshot of the Hub are the same thing.

Everything is checked before it is used, and nothing from a file is executed.
"""

from __future__ import annotations

import hashlib
import json
import os
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from impflow_zoo.lipschitz.certify import Certificate
from impflow_zoo.models.classes import model_class, require_config
from impflow_zoo.models.config import Config, parse, to_json
from impflow_zoo.models.fields import ConfigError, ModelError, convert, require
from impflow_zoo.models.filenames import CONFIG, DATA, LOG, WEIGHTS
from impflow_zoo.models.hub import snapshot
from impflow_zoo.models.reading import JSON_BYTES, read_json, readable
from impflow_zoo.models.writing import finish_save, write_together
from impflow_zoo.numerics.settings import is_whole

__all__ = [
    "MOST_MEMBERS",
    "ConfigFile",
    "DamagedError",
    "ModelFolder",
    "WeightsError",
    "read_safetensors",
]

_PICKLES = ("pytorch_model.bin", "model.pt", "checkpoint.pt")
_FORMAT = 1
MOST_MEMBERS = 100  # of an ensemble


class WeightsError(ModelError):
    """Weights are missing, incomplete, of another shape, damaged, or not those of the config."""


class DamagedError(WeightsError):
    """A file does not hold what was written into it."""


@dataclass(frozen=True)
class ConfigFile:
    """What `config.json` says."""

    model: str  # name of the class
    config: Config
    sha256: str | None = None  # checksum of the weights, if there are any yet
    certificate: tuple[Certificate, ...] = ()  # the Lipschitz bounds at save time
    members: int | None = None  # of an ensemble: models of this config

    def text(self) -> bytes:
        """The content of the file, or a `ConfigError` if nobody could read one of its size."""
        data = {
            "format": _FORMAT,
            "model": self.model,
            "config": to_json(self.config),
            "weights": None if self.sha256 is None else {"sha256": self.sha256},
            "certificate": [vars(c) for c in self.certificate],
        }
        if self.members is not None:
            data["members"] = self.members
        content = (json.dumps(data, indent=2) + "\n").encode()
        size = len(content)
        require(size <= JSON_BYTES, CONFIG, f"{size:,} bytes", f"{JSON_BYTES:,} at most")
        return content


@dataclass(frozen=True)
class ModelFolder:
    """A folder that holds a model, or is to hold one.

    A save into it that was killed is finished, or has not happened.
    """

    path: Path
    name: str = ""  # what messages call it; empty is its path
    elsewhere: frozenset[str] = frozenset()  # files of a repository that are not fetched
    commit: str | None = None  # of a repository

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or str(self.path))
        finish_save(self.path)

    @classmethod
    def open(
        cls, model: str | os.PathLike[str], *, revision: str | None = None, **options: Any
    ) -> ModelFolder:
        """A local folder; or that of `owner/name` or `owner/name@revision` on the Hub, fetched.

        Options are those of `hub.snapshot`.

        Raises:
            ModelError: if it is neither.
            HfHubHTTPError, LocalEntryNotFoundError: the Hub's own errors, said in one line.
        """
        name = os.fspath(model)
        if "@" in name and not os.path.isdir(name):
            name, stated = name.rsplit("@", 1)
            if revision not in (None, stated):
                raise ModelError(f"{name}@{stated} and revision={revision!r}: give one revision")
            revision = stated
        if os.path.isdir(name):
            if revision is not None:
                raise ModelError(f"{name} is a folder and has no revisions: leave {revision!r} out")
            return cls(Path(name))
        path, listed = snapshot(name, DATA, (CONFIG, WEIGHTS), revision=revision, **options)
        # The cache calls the folder of a commit by it.
        return cls(path, name if revision is None else f"{name}@{revision}", listed, path.name)

    @property
    def public_name(self) -> str:
        """A Hub id, or the last part of a folder's path: where it lies is nobody's business."""
        return self.name if not Path(self.name).is_dir() else Path(self.name).resolve().name

    def has(self, filename: str) -> bool:
        """Whether the folder holds a file of that name."""
        return (self.path / filename).is_file()

    def file(self, filename: str) -> Path | None:
        """The path of a file that the folder may lack."""
        return self.path / filename if self.has(filename) else None

    def config(self) -> ConfigFile:
        """Read `config.json`, or raise a `ConfigError`: missing, damaged, newer, wrong."""
        if not self.has(CONFIG):
            self._refuse_pickle()
            reason = "not a model of this library"
            if self.has(LOG):
                reason = "a run writes a model at its first validation, which has not happened yet"
            raise ConfigError(f"{self.name} has no {CONFIG}: {reason}")
        data = read_json(self.path / CONFIG, f"{self.name}: {CONFIG}")
        if not isinstance(data, dict):
            raise ConfigError(f"{self.name}: {CONFIG} is not a JSON object")
        version = data.get("format")
        if not (is_whole(version) and version >= 1):
            raise ConfigError(f"{self.name}: {CONFIG} has no valid 'format' of this library")
        if version > _FORMAT:
            raise ConfigError(
                f"{self.name} has format {reprlib.repr(version)}, this version of impflow_zoo "
                f"reads up to {_FORMAT}: upgrade impflow_zoo"
            )
        known = {"format", "model", "config", "weights", "certificate", "members"}
        unknown = set(data) - known
        if unknown:
            raise ConfigError(f"{self.name}: unknown key {reprlib.repr(min(unknown))} in {CONFIG}")
        try:
            kind = model_class(data.get("model"))
            weights = convert(data.get("weights"), dict[str, str] | None, "weights")
            if weights is not None and weights.keys() != {"sha256"}:
                raise ConfigError(f"'weights' has keys {sorted(weights)}: only 'sha256' is known")
            certificate = convert(
                data.get("certificate", ()), tuple[Certificate, ...], "certificate"
            )
            members = convert(data.get("members"), int | None, "members")
            number = members is None or 1 <= members <= MOST_MEMBERS
            require(number, "members", members, f"1 to {MOST_MEMBERS}")
            config = parse(data.get("config"))
            require_config(kind, config)
        except ConfigError as error:
            raise ConfigError(f"{self.name}: {readable(error)}") from None
        sha256 = weights and weights["sha256"]
        return ConfigFile(kind.__name__, config, sha256, certificate, members)

    def config_and_weights(self) -> tuple[ConfigFile, dict[str, Tensor]]:
        """Read config and weights of one save, though a training may save others meanwhile.

        Raises:
            ConfigError, WeightsError: if they are missing, damaged, or do not fit together.
        """
        while True:
            before = self._state_of_config()
            stated = self.config()
            try:
                found: dict[str, Tensor] | WeightsError = self.weights(stated)
            except WeightsError as error:
                found = error
            finish_save(self.path)
            if self._state_of_config() == before:  # else somebody saved another model meanwhile
                break
        if isinstance(found, WeightsError):
            raise found
        return stated, found

    def _state_of_config(self) -> tuple[int, ...] | None:
        """What changes when the config is saved again, which makes a new file."""
        if not self.has(CONFIG):
            return None
        state = (self.path / CONFIG).stat()
        return state.st_ino, state.st_mtime_ns, state.st_size

    def weights(self, stated: ConfigFile) -> dict[str, Tensor]:
        """Read the weights that `config` found stated: others raise a `WeightsError`."""
        if not self.has(WEIGHTS):
            self._refuse_pickle()
            raise WeightsError(f"{self.name} has no {WEIGHTS}: no weights were published with it")
        path = self.path / WEIGHTS
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        tensors = read_safetensors(path)
        if stated.sha256 not in (None, found):
            raise DamagedError(
                f"{self.name}: {WEIGHTS} has sha256 {found[:12]}..., the config records "
                f"{str(stated.sha256)[:12]}...: download it again, or save the model again"
            )
        return tensors

    def _refuse_pickle(self) -> None:
        """Say why weights in a pickle are of no use, where there are some."""
        for filename in _PICKLES:
            if filename in self.elsewhere or self.has(filename):
                raise WeightsError(
                    f"{self.name} has no {WEIGHTS}: its weights are a pickle ({filename}), which "
                    "could run code and is not opened"
                )

    def replace(self, contents: Mapping[str, bytes | None]) -> None:
        """Write files by name, all of them or none; None deletes one."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_together(self.path, contents)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, or a `DamagedError`."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, ValueError, OSError) as error:
        raise DamagedError(
            f"{path} is truncated or damaged: {readable(error)}; copy it again"
        ) from None
