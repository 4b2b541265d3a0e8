"""From a checkpoint to the files of a model."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialise
from torch import Tensor

from conversion import card
from conversion.architecture import Settings, config_of
from conversion.archive import open_archive
from conversion.errors import ConversionError
from conversion.mapping import Mapping, mapped
from conversion.reference import Reference
from conversion.selfcheck import LARGE, SelfCheck, check
from impflow_zoo.lipschitz.certify import certify
from impflow_zoo.lipschitz.norms import refresh_norms
from impflow_zoo.models.flow import FlowModel, ImpFlow, ResFlow
from impflow_zoo.models.folder import CARD, CONFIG, GOLDEN, WEIGHTS, ConfigFile, ModelFolder
from impflow_zoo.models.golden import golden_batch

__all__ = ["Converted", "convert", "write"]

_VECTORS = (".u", ".v", ".sigma")
_GOLDEN_ROWS = 8


@dataclass(frozen=True)
class Converted:
    """A model in memory.

    Arguments:
        source: the checkpoint.
        sha256: its checksum.
        model: the model, in float32.
        weights: its weights, as they are written.
        mapping: where they come from.
        settings: the public script's settings.
        averaged: whether the weights are averaged ones.
        checkpoint_bytes: size of the checkpoint.
        dropped: how many tensors of the checkpoint's model are not needed.
    """

    source: Path
    sha256: str
    model: FlowModel
    weights: dict[str, Tensor]
    mapping: Mapping
    settings: Settings
    averaged: bool
    checkpoint_bytes: int
    dropped: int


def convert(
    source: Path,
    *,
    weights: str | None = None,
    overrides: dict[str, Any] | None = None,
    converge: bool = False,
) -> Converted:
    """Read a checkpoint of the public training scripts.

    Arguments:
        source: the checkpoint.
        weights: `"ema"`, `"raw"`, or None for averaged ones where there are some.
        overrides: settings that are to hold instead of those in the file.
        converge: bring the power vectors to convergence, so that the bound holds; values change.

    Raises:
        ConversionError: if it cannot be read or represented.
    """
    with open_archive(source) as archive:
        reference = Reference(archive)
        if weights == "ema" and not reference.averages:
            raise ConversionError("the checkpoint has no averaged weights: use --weights raw")
        averaged = bool(reference.averages) and weights != "raw"
        settings = Settings(reference.args, overrides or {})
        config = config_of(reference, settings)
        if converge:
            config = dataclasses.replace(config, stored_norms=False)
        least = sum(t.storage.size for t in reference.tensors.values())
        if config.least_size > least:  # before anything of that size is built
            raise ConversionError(
                f"the settings describe {config.least_size:.3g} numbers or more, the checkpoint "
                f"holds {least:.3g}: correct dims, idim, nblocks or imagesize by --set"
            )
        with torch.random.fork_rng(devices=[]):
            model = (ImpFlow if reference.implicit else ResFlow)(config).eval()
        found, mapping = mapped(model, reference, averaged=averaged)
        model.load_state_dict(found)
        if converge:
            refresh_norms(model)
            state = model.state_dict()
            found.update({key: state[key] for key in found if key.endswith(_VECTORS)})
        return Converted(
            source,
            _checksum(source),
            model,
            found,
            mapping,
            settings,
            averaged,
            source.stat().st_size,
            len(reference.tensors) - len(mapping.tensors),
        )


def write(
    converted: Converted, folder: Path, *, verify: bool = False, golden: int | None = None
) -> SelfCheck | None:
    """Write the files of a model, all of them or none.

    Arguments:
        converted: the model.
        folder: where to; a card that is there is kept, and says where the weights come from.
        verify: check the model first, and say so in the card.
        golden: rows of the golden batch; None writes 8, and none for large models.

    Raises:
        ConversionError: if the check fails.
    """
    model = converted.model
    outcome = check(model) if verify else None
    if golden is None:
        golden = 0 if sum(p.numel() for p in model.parameters()) > LARGE else _GOLDEN_ROWS
    content = serialise(
        {key: tensor.contiguous() for key, tensor in converted.weights.items()},
        metadata={"format": "pt"},
    )
    certificate = tuple(certify(model)) if outcome is None else outcome.certificate
    checksum = hashlib.sha256(content).hexdigest()
    stated = ConfigFile(type(model).__name__, model.config, checksum, certificate)
    section = card.section(converted, certificate, outcome)
    before = folder / CARD
    known = before.read_text(encoding="utf-8") if before.is_file() else None
    contents: dict[str, bytes | None] = {
        WEIGHTS: content,
        CONFIG: stated.text(),
        GOLDEN: None,  # that of other weights
        CARD: card.with_section(known, section, model, folder.name).encode(),
    }
    if golden:
        batch = golden_batch(model, golden)
        contents[GOLDEN] = serialise(batch, metadata={"format": "pt"})
    ModelFolder(folder).replace(contents)
    return outcome


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
