"""From a checkpoint to the files of a model."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save as serialise
from torch import nn

from conversion import card
from conversion.archive import open_archive
from conversion.checkpoint import Checkpoint, names_of, weights_of
from conversion.pickles import ConversionError
from conversion.settings import Settings, config_of, read_settings
from impflow_zoo.lipschitz.certify import certify, worst
from impflow_zoo.models.budget import Budget
from impflow_zoo.models.fields import ConfigError
from impflow_zoo.models.filenames import CARD, CONFIG, GOLDEN, LOG, RESULTS, TRAINING, WEIGHTS
from impflow_zoo.models.flow import FlowModel, ImpFlow, ResFlow
from impflow_zoo.models.folder import ConfigFile, ModelFolder
from impflow_zoo.models.published import PublishedImageConfig, PublishedTabularConfig
from impflow_zoo.models.store import golden_batch
from impflow_zoo.transforms.base import NUMERICAL_ERRORS

__all__ = ["Converted", "checked", "convert", "size_of", "write"]

_LARGE = 2_000_000  # parameters, from which on float64, many probes and many rows take minutes


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
        kind = ResFlow if checkpoint.first.net == "nnet" else ImpFlow
        with torch.device("meta"), _budget(source, checkpoint):
            names = names_of(kind(config), checkpoint)  # before anything of that size is built
        with torch.random.fork_rng(devices=[]):
            model = kind(config).eval()
        model.load_state_dict(weights_of(model, checkpoint, names, averaged=averaged))
        return Converted(source, model, names, settings, averaged)


def _budget(source: Path, checkpoint: Checkpoint) -> Budget:
    """What the model of a checkpoint may take while it is made."""
    numbers, tensors = source.stat().st_size // 2, len(checkpoint.tensors)
    message = (
        f"the settings describe far more than the {tensors:,} tensors of the checkpoint hold: "
        "correct dims, idim, nblocks or imagesize by --set"
    )
    return Budget(4 * numbers, 4 * tensors + 1000, message)


def write(converted: Converted, folder: Path, *, verify: bool = False) -> list[str]:
    """Write the files of a model, all of them or none, and say what is known of it.

    Arguments:
        converted: the model.
        folder: where to, which may hold a conversion; all its files are then written anew.
        verify: check the model first; a large one gets its golden batch, of one row, then alone.

    Raises:
        ConversionError: if the check fails, or the folder holds something else.
    """
    model, place = converted.model, ModelFolder(folder)
    _check_place(place)
    outcome = checked(model) if verify else []
    rows = int(verify) if size_of(model) > _LARGE else 8
    tensors = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    content = serialise(tensors, metadata={"format": "pt"})
    certificate = tuple(certify(model))
    checksum = hashlib.sha256(content).hexdigest()
    stated = ConfigFile(type(model).__name__, model.config, checksum, certificate)
    known = [f"{size_of(model):,} parameters", *outcome, f"certified: {worst(certificate)}"]
    batch = serialise(golden_batch(model, rows), metadata={"format": "pt"}) if rows else None
    text = card.text(
        folder,
        known,
        source=converted.source,
        model=model,
        settings=converted.settings,
        averaged=converted.averaged,
    )
    place.replace(
        {
            WEIGHTS: content,
            CONFIG: stated.text(),
            GOLDEN: batch,  # None removes that of other weights
            CARD: text.encode(),
        }
    )
    return known


def _check_place(folder: ModelFolder) -> None:
    """Refuse a folder with files that a conversion would replace, and has not written."""
    if folder.path.exists() and not folder.path.is_dir():
        raise ConversionError(f"{folder.name} is a file: a model is written into a folder")
    trained = any(map(folder.has, (TRAINING, LOG, RESULTS)))
    there = [name for name in (CONFIG, WEIGHTS, GOLDEN, CARD) if folder.has(name)]
    if there and (trained or not _is_converted(folder)):
        raise ConversionError(
            f"{folder.name} holds a {there[0]} of something else: choose another folder"
        )


def _is_converted(folder: ModelFolder) -> bool:
    """Whether the model in a folder is one that a conversion may have written."""
    try:
        return isinstance(folder.config().config, PublishedImageConfig | PublishedTabularConfig)
    except ConfigError:
        return False


def size_of(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def checked(model: FlowModel) -> list[str]:
    """What a round trip and densities of rows of noise come to, in words.

    Raises:
        ConversionError: if a root is not found or a log-density is not finite.
    """
    large = size_of(model) > _LARGE
    dtype, rows = (torch.float32, 1) if large else (torch.float64, 4)
    model = copy.deepcopy(model).eval().to(dtype)
    for block in model.blocks() if large else ():
        block.logdet = dataclasses.replace(block.logdet, n_terms=10, n_probes=1)
    generator, shape = torch.Generator().manual_seed(0), (rows, *model.config.shape)
    images = len(shape) == 4
    x = (torch.rand if images else torch.randn)(shape, generator=generator, dtype=dtype)
    try:
        error = float((model.decode(model.encode(x)) - x).abs().max())
        log_prob = model.log_prob(x)
    except NUMERICAL_ERRORS as failure:
        raise ConversionError(f"the self-check failed: {failure}") from None
    if not bool(log_prob.isfinite().all()):
        raise ConversionError("the self-check failed: a log-density is not finite")
    low, high = float(log_prob.min()), float(log_prob.max())
    return [
        f"self-check: round trip of {rows} rows of noise in {dtype}, largest error {error:.1e}",
        f"self-check: log-densities of these rows are finite, {low:.4g} to {high:.4g} nats",
    ]
