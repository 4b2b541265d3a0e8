"""From a checkpoint to the files of a model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save as serialise

from conversion import card
from conversion.archive import open_archive
from conversion.checkpoint import Checkpoint, names_of, weights_of
from conversion.pickles import ConversionError
from conversion.selfcheck import LARGE, checked, size_of
from conversion.settings import Settings, config_of, read_settings
from impflow_zoo.lipschitz.certify import certify, worst
from impflow_zoo.models.flow import FlowModel, ImpFlow, ResFlow
from impflow_zoo.models.folder import CARD, CONFIG, GOLDEN, WEIGHTS, ConfigFile, ModelFolder
from impflow_zoo.models.store import golden_batch

__all__ = ["Converted", "convert", "write"]

_GOLDEN_ROWS = 8


@dataclass(frozen=True)
class Converted:
    """A model in memory.

    Arguments:
        source: the checkpoint.
        model: the model, in float32.
        names: the key in the checkpoint for each key of the model's state that was copied.
        settings: the public script's settings.
        averaged: whether the weights are averaged ones.
    """

    source: Path
    model: FlowModel
    names: dict[str, str]
    settings: Settings
    averaged: bool


def convert(
    source: Path, *, weights: str | None = None, overrides: dict[str, str] | None = None
) -> Converted:
    """Read a checkpoint of the public training scripts.

    Arguments:
        source: the checkpoint.
        weights: `"ema"`, `"raw"`, or None for averaged ones where there are some.
        overrides: settings that are to hold instead of those in the file, as text.

    Raises:
        ConversionError: if it cannot be read or represented.
    """
    with open_archive(source) as archive:
        checkpoint = Checkpoint(archive)
        if weights == "ema" and not checkpoint.averages:
            raise ConversionError("the checkpoint has no averaged weights: use --weights raw")
        averaged = bool(checkpoint.averages) and weights != "raw"
        settings = read_settings(checkpoint.args, overrides or {})
        config = config_of(checkpoint, settings)
        most = source.stat().st_size // 2
        if config.least_size > most:  # before anything of that size is built
            raise ConversionError(
                f"the settings describe {config.least_size} numbers or more, the checkpoint holds "
                f"{most} at most: correct dims, idim, nblocks or imagesize by --set"
            )
        with torch.random.fork_rng(devices=[]):
            model = (ResFlow if checkpoint.first.net == "nnet" else ImpFlow)(config).eval()
        names = names_of(model, checkpoint)
        model.load_state_dict(weights_of(model, checkpoint, names, averaged=averaged))
        return Converted(source, model, names, settings, averaged)


def write(
    converted: Converted, folder: Path, *, verify: bool = False, golden: int | None = None
) -> list[str]:
    """Write the files of a model, all of them or none, and say what is known of it.

    Arguments:
        converted: the model.
        folder: where to; a card that is there is kept, and says where the weights come from.
        verify: check the model first.
        golden: rows of the golden batch; None writes 8, and none for large models.

    Raises:
        ConversionError: if the check fails.
    """
    model = converted.model
    outcome = checked(model) if verify else []
    if golden is None:
        golden = 0 if size_of(model) > LARGE else _GOLDEN_ROWS
    tensors = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    content = serialise(tensors, metadata={"format": "pt"})
    certificate = tuple(certify(model))
    checksum = hashlib.sha256(content).hexdigest()
    stated = ConfigFile(type(model).__name__, model.config, checksum, certificate)
    known = [*outcome, f"certified: {worst(certificate)}"]
    batch = serialise(golden_batch(model, golden), metadata={"format": "pt"}) if golden else None
    ModelFolder(folder).replace(
        {
            WEIGHTS: content,
            CONFIG: stated.text(),
            GOLDEN: batch,  # None removes that of other weights
            CARD: card.text(converted, folder, known).encode(),
        }
    )
    return known
