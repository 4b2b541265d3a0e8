"""Save a model into its folder, load its weights, and verify them.

The golden batch, a few inputs with their outputs, recognises weights on any machine.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors.torch import save as serialise
from torch import Tensor

from impflow_zoo.data.names import all_listed
from impflow_zoo.lipschitz.certify import Certificate, certify
from impflow_zoo.lipschitz.norms import refresh_norms
from impflow_zoo.models.budget import Budget, without_numbers
from impflow_zoo.models.classes import model_class, registered_name
from impflow_zoo.models.columns import ColumnsConfig
from impflow_zoo.models.ensemble import Mixture
from impflow_zoo.models.filenames import CARD, CONFIG, GOLDEN, WEIGHTS
from impflow_zoo.models.folder import ConfigFile, ModelFolder, WeightsError, read_safetensors
from impflow_zoo.models.reading import readable
from impflow_zoo.models.texts import in_markdown
from impflow_zoo.numerics.modes import without_autocast
from impflow_zoo.numerics.solver import Solver, SolverError
from impflow_zoo.transforms.context import ConditionalTransform

if TYPE_CHECKING:
    from impflow_zoo.models.config import Config
    from impflow_zoo.models.flow import FlowModel

__all__ = [
    "blank_state",
    "check_certificate",
    "check_fit",
    "golden_batch",
    "load_weights",
    "verify",
]

_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_RTOL = 1e-5  # of answers beside the golden ones
_GOLDEN_ROWS, _GOLDEN_NUMBERS = 8, 8192  # of inputs at most, unless one row has more


def blank_state(
    kind: Callable[[Config], FlowModel], config: Config, weights: Mapping[str, Tensor], name: str
) -> dict[str, Tensor]:
    """The state of a new model, without numbers; within what a model of the weights may take."""

    def state() -> dict[str, Tensor]:
        with Budget.of(weights, name):
            return kind(config).state_dict()

    return without_numbers(state)


def check_fit(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], name: str) -> None:
    """Refuse weights that are not those of a state.

    Arguments:
        weights: as a file holds them.
        own: the state of the model that they are for, with or without numbers.
        name: of the model, for messages.

    Raises:
        WeightsError: unless there is every tensor and no other, each of the right shape and type,
            and finite.
    """
    if problem := _mismatch(own, weights):
        raise WeightsError(f"{name}: {readable(problem)}: weights of another architecture?")
    for key, tensor in weights.items():
        types = _FLOATS if own[key].is_floating_point() else (own[key].dtype,)
        if tensor.dtype not in types:
            raise WeightsError(f"{name}: {key} is of type {tensor.dtype}, one of {types} is needed")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise WeightsError(f"{name}: {key} holds NaN or infinity")


def load_weights(model: torch.nn.Module, weights: dict[str, Tensor]) -> None:
    """Load weights that fit; the model takes their type, which is float32 at least."""
    dtypes = {t.dtype for t in weights.values() if t.is_floating_point()}
    if len(dtypes) == 1:
        model.to(torch.promote_types(dtypes.pop(), torch.float32))  # roots need no less
    model.load_state_dict(weights, strict=True)


def _mismatch(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """What keeps weights from being loaded into a state; nothing if they fit."""
    found = (own.keys() - weights.keys(), "missing"), (weights.keys() - own.keys(), "unexpected")
    parts = [f"{len(keys)} {word} (first: {min(keys)})" for keys, word in found if keys]
    if parts:
        return f"tensors {', '.join(parts)}"
    for key, tensor in own.items():
        if tensor.shape != weights[key].shape:
            return f"{key} has shape {tuple(weights[key].shape)}, {tuple(tensor.shape)} is needed"
    return ""


def save(model: FlowModel, folder: Path, card: str | None, name: str) -> None:
    """Write a model's files, all of them or none.

    The vectors of norms are brought to convergence. Without a card, one that is there is kept, or a
    minimal one is written, which loads the model by its name.

    Raises:
        WeightsError: if the folder is a file, a weight is not finite or in half precision, or the
            model is no longer what its config makes.
    """
    kind = _check_kind(model)
    if folder.exists() and not folder.is_dir():
        raise WeightsError(f"{folder} is a file: a model is saved into a folder")
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise WeightsError(f"{key} holds NaN or infinity: the model is not saved")
        if tensor.dtype in (torch.float16, torch.bfloat16):
            raise WeightsError(
                f"{key} is in {tensor.dtype}, too narrow to compute norms: save model.float()"
            )
    refresh_norms(model)
    weights = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    content = serialise(weights, metadata={"format": "pt"})
    sha256 = hashlib.sha256(content).hexdigest()
    members = len(model.parts) if isinstance(model, Mixture) else None
    stated = ConfigFile(kind, model.config, sha256, tuple(certify(model)), members)
    batch = golden_batch(model)
    _check_answers(model, kind, batch)
    golden = serialise(batch, metadata={"format": "pt"})
    contents: dict[str, bytes | None] = {WEIGHTS: content, GOLDEN: golden, CONFIG: stated.text()}
    if card is None and not (folder / CARD).exists():
        card = default_card(type(model).__name__ if members else kind, name, model.config)
    if card is not None:
        contents[CARD] = card.encode()
    ModelFolder(folder).replace(contents)


def _check_kind(model: FlowModel) -> str:
    """The name of the registered class that will load a model, if it makes the same tensors.

    Of an ensemble it is the class of its models, which have one config.
    """
    first, *others = model.parts
    if any((type(one), one.config) != (type(first), first.config) for one in others):
        raise WeightsError("an ensemble of models of several configs: save each model by itself")
    kind = registered_name(type(first))
    if kind is None:
        raise WeightsError(f"{type(first).__name__} is not a registered model: see register_model")
    own = model.state_dict()
    made = partial(_made, model, kind)
    if problem := _mismatch(blank_state(made, model.config, own, kind), own):
        raise WeightsError(
            f"{problem}: the saved model could not be loaded, as {kind} makes other tensors "
            "from its config (was a net replaced or compiled, or is this a sub-class?)"
        )
    return kind


def _made(model: FlowModel, kind: str, config: Config) -> FlowModel:
    """What loading a model makes: one of the registered class, or an ensemble of them."""
    cls = model_class(kind)
    if model.parts == [model]:
        return cls(config)
    ensemble: Any = type(model)  # whose argument is no config
    return cast("FlowModel", ensemble([cls(config) for _ in model.parts]))


def _check_answers(model: FlowModel, kind: str, golden: Mapping[str, Tensor]) -> None:
    """Refuse a sub-class whose answers the registered class does not give."""
    if type(model.parts[0]) is model_class(kind):
        return
    loaded = _made(model, kind, model.config)
    load_weights(loaded, model.state_dict())
    try:
        _reproduce(_double_copy(loaded, model.config), golden)
    except (AssertionError, ValueError, SolverError) as error:
        raise WeightsError(
            f"the saved model would be loaded as {kind}, which answers differently: register "
            f"{type(model.parts[0]).__name__} by register_model"
        ) from error


def default_card(kind: str, name: str, config: Config) -> str:
    """A minimal card for a model that users save themselves: its columns, and how it is loaded."""
    folder = f"Run this code in the folder that contains `{name}`.\n\n"
    columns = config.columns if isinstance(config, ColumnsConfig) else ()
    known = {"Columns, in order": columns, "Given": config.context_columns}
    lines = [
        f"{what}: {in_markdown(all_listed(names))}.\n\n" for what, names in known.items() if names
    ]
    return (
        "---\nlibrary_name: impflow_zoo\ntags:\n- normalizing-flow\n---\n\n"
        f"# {kind}\n\n{''.join(lines)}{'' if '/' in name else folder}"
        f"```python\nfrom impflow_zoo import {kind}\n\n"
        f"model = {kind}.from_pretrained({json.dumps(name)})\n```\n"
    )


@torch.no_grad()
def golden_batch(model: FlowModel, rows: int | None = None) -> dict[str, Tensor]:
    """A few inputs with their latents and log-probabilities: 8 rows, and fewer of large images.

    They are what the model answers in float64 (`from_pretrained(..., dtype=torch.float64)`). Where
    its log-determinants are drawn afresh, `"auto"` takes their place. Latents of an ensemble are
    those of its first model.
    """
    double = _double_copy(model, model.config)
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    size = math.prod(model.config.shape)
    rows = rows or max(1, min(_GOLDEN_ROWS, _GOLDEN_NUMBERS // size))
    noise = draw(rows, size)
    given = model.config.context_features
    context = draw(rows, given) if given else None
    transform = double.parts[0].transform
    if context is not None and isinstance(transform, ConditionalTransform):
        context = transform.like(context)
    with without_autocast(double):
        x = double.parts[0].decode(noise, context)
    # Inputs as users have them: an image's may lie out of [0, 1] as it is.
    x = double.dequantise(double.to_data(x), torch.full_like(x, 0.5))
    batch = {"inputs": x, **_answers(double, x, context)}
    if context is not None:
        batch["context"] = context
    return {key: value.contiguous().clone() for key, value in batch.items()}


def _answers(model: FlowModel, x: Tensor, context: Tensor | None) -> dict[str, Tensor]:
    with without_autocast(model):
        latents = model.parts[0].encode(x, context)
        return {"log_prob": model.log_prob(x, context), "latents": latents}


@torch.no_grad()
def verify(model: FlowModel, folder: ModelFolder, stated: ConfigFile) -> list[Certificate]:
    """Reproduce the golden batch and the bounds of save time, or raise a `WeightsError`."""
    if not folder.has(GOLDEN):
        raise WeightsError(f"{folder.name} has no {GOLDEN}: nothing to verify against")
    golden = read_safetensors(folder.path / GOLDEN)
    double = _double_copy(model, stated.config)
    try:
        if (rows := golden["inputs"].shape[:1].numel()) > _GOLDEN_ROWS:
            raise ValueError(f"it has {rows:,} rows, {_GOLDEN_ROWS} at most are expected")
        _reproduce(double, golden)
    except (AssertionError, KeyError, ValueError) as error:
        what = f"{folder.name}: the model does not reproduce {GOLDEN}"
        raise WeightsError(f"{what}: {readable(error)}") from None
    return check_certificate(model, folder.name, stated.certificate)


def _reproduce(double: FlowModel, golden: Mapping[str, Tensor]) -> None:
    """Compare a model's answers in float64 with a golden batch."""
    for key, value in _answers(double, golden["inputs"], golden.get("context")).items():
        if len(value) == 0:
            raise ValueError("no rows")
        torch.testing.assert_close(golden[key], value, rtol=_RTOL, atol=_RTOL)


def check_certificate(
    model: FlowModel, name: str, certificate: Iterable[Certificate]
) -> list[Certificate]:
    """Prove bounds, and refuse those above the recorded ones by a `WeightsError`."""
    recorded = {c.name: c.bound for c in certificate}
    found = {c.name: c for c in certify(model)}
    if recorded.keys() != found.keys():
        raise WeightsError(f"{name}: the certificate in {CONFIG} belongs to other nets")
    for net, bound in recorded.items():
        proven = found[net].bound
        if bound is not None and (proven is None or proven > bound * (1 + 1e-6)):
            raise WeightsError(f"{name}: {found[net]}, but {CONFIG} records {bound}")
    return list(found.values())


def _double_copy(model: FlowModel, config: Config) -> FlowModel:
    """A copy in float64, with the log-determinants of a config and the default solver."""
    with torch.inference_mode(mode=False):  # whose tensors enter no graph
        double = copy.deepcopy(model).double().cpu().eval()
    logdet = config.logdet  # models that have none have no blocks
    if logdet.mode == "unbiased":
        logdet = dataclasses.replace(logdet, mode="auto")
    for i, block in enumerate(double.blocks()):
        block.logdet, block.solver = logdet.seeded(config.seed, i), Solver()
    return double
