"""From a model to the files of its folder, and from weights to a model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save as serialise
from torch import Tensor

from impflow_zoo.lipschitz.certify import certify
from impflow_zoo.lipschitz.norms import refresh_norms
from impflow_zoo.models.classes import model_class, model_names, registered_name
from impflow_zoo.models.folder import (
    CARD,
    CONFIG,
    GOLDEN,
    WEIGHTS,
    ConfigFile,
    ModelFolder,
    WeightsError,
    readable,
)
from impflow_zoo.models.golden import golden_batch
from impflow_zoo.transforms.weights import mismatch

if TYPE_CHECKING:
    from impflow_zoo.models.flow import FlowModel

__all__ = ["load_weights", "save"]

_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


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
    stated = ConfigFile(kind, model.config, sha256, tuple(certify(model)))
    golden = serialise(golden_batch(model), metadata={"format": "pt"})
    contents: dict[str, bytes | None] = {WEIGHTS: content, GOLDEN: golden, CONFIG: stated.text()}
    if card is None and not (folder / CARD).exists():
        card = default_card(kind, name or folder.resolve().name)
    if card is not None:
        contents[CARD] = card.encode()
    ModelFolder(folder).replace(contents)


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
