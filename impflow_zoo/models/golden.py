"""The golden batch: a few inputs with their answers, by which weights are recognised anywhere."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from impflow_zoo.lipschitz.certify import Certificate, certify
from impflow_zoo.lipschitz.norms import refresh_norms
from impflow_zoo.models.folder import (
    CONFIG,
    GOLDEN,
    ConfigFile,
    ModelFolder,
    WeightsError,
    read_safetensors,
)
from impflow_zoo.models.walk import decode
from impflow_zoo.numerics.precision import without_autocast
from impflow_zoo.numerics.solver import Solver
from impflow_zoo.transforms.context import StandardisedContext

if TYPE_CHECKING:
    from impflow_zoo.models.config import Config
    from impflow_zoo.models.flow import FlowModel

__all__ = ["check_certificate", "golden_batch", "verify"]

_ROWS = 8
_RTOL = 1e-5


@torch.no_grad()
def golden_batch(model: FlowModel, rows: int = _ROWS) -> dict[str, Tensor]:
    """A few inputs with their latents and log-probabilities.

    They are what the model answers in float64 (`from_pretrained(..., dtype=torch.float64)`), but
    for log-determinants that are drawn afresh, in place of which `"auto"` is taken.
    """
    double = _double_copy(model, model.config)
    generator = torch.Generator().manual_seed(0)
    size = math.prod(model.config.shape)
    noise = torch.randn(rows, size, generator=generator, dtype=torch.float64)
    context = None
    if model.config.context_features:
        context = torch.randn(
            rows, model.config.context_features, generator=generator, dtype=torch.float64
        )
        if isinstance(double.transform, StandardisedContext):
            context = double.transform.context_mean + double.transform.context_std * context
    with without_autocast(double):
        x = decode(double.transform, noise, context)
        # Inputs as users have them: an image's may lie out of [0, 1] as it is.
        x = double.dequantise(double.to_data(x), torch.full_like(x, 0.5))
        z, _ = double.transform(x, context)
        batch = {"inputs": x, "latents": z, "log_prob": double.log_prob(x, context)}
    if context is not None:
        batch["context"] = context
    return {key: value.contiguous().clone() for key, value in batch.items()}


@torch.no_grad()
def verify(model: FlowModel, folder: ModelFolder, stated: ConfigFile) -> None:
    """Reproduce the golden batch and the bounds recorded at save time.

    Arguments:
        model: the model, which may have been loaded with other settings than the stored ones.
        folder: where it was loaded from.
        stated: what its `config.json` says.

    Raises:
        WeightsError: if an answer differs, or a bound is above the recorded one.
    """
    if not folder.has(GOLDEN):
        raise WeightsError(f"{folder.name} has no {GOLDEN}: nothing to verify against")
    golden = read_safetensors(folder.path / GOLDEN)
    double = _double_copy(model, stated.config)
    absent = {"inputs", "latents", "log_prob"} - golden.keys()
    if absent:
        raise WeightsError(f"{folder.name}: {GOLDEN} lacks {sorted(absent)[0]!r}")
    x, context = golden["inputs"], golden.get("context")
    try:
        with without_autocast(double):
            answers = {"log_prob": double.log_prob(x, context)}  # which checks its input
            answers["latents"] = double.encode(x, context)
    except ValueError as error:
        raise WeightsError(f"{folder.name}: {GOLDEN} does not fit the model: {error}") from None
    for key, value in answers.items():
        expected = golden[key]
        if len(x) == 0 or expected.shape != value.shape or expected.dtype != value.dtype:
            raise WeightsError(f"{folder.name}: golden {key} are missing or of another shape")
        if not torch.allclose(value, expected, rtol=_RTOL, atol=_RTOL):
            worst = float((value - expected).abs().max())
            raise WeightsError(f"{folder.name}: golden {key} differ by up to {worst:.2e}")
    check_certificate(model, folder.name, stated.certificate)


def check_certificate(model: FlowModel, name: str, certificate: Iterable[Certificate]) -> None:
    """Compare the bounds of a model with those recorded at save time.

    Raises:
        WeightsError: if a bound is above the recorded one, or they are of other nets.
    """
    recorded = {c.name: c.bound for c in certificate}
    found = {c.name: c for c in certify(model)}
    if recorded.keys() != found.keys():
        raise WeightsError(f"{name}: the certificate in {CONFIG} is of other nets than the model's")
    for net, bound in recorded.items():
        proven = found[net].bound
        if bound is not None and (proven is None or proven > bound * (1 + 1e-6)):
            raise WeightsError(f"{name}: {found[net]}, but {CONFIG} records {bound}")


def _double_copy(model: FlowModel, config: Config) -> FlowModel:
    """A copy in float64, with the log-determinants of a config and the default solver."""
    double = copy.deepcopy(model).double().cpu().eval()
    refresh_norms(double)  # from the vectors of the file, whether these were settled before or not
    logdet = getattr(config, "logdet", None)
    if logdet is None:
        return double
    if logdet.mode == "unbiased":
        logdet = dataclasses.replace(logdet, mode="auto")
    for i, block in enumerate(double.blocks()):
        block.logdet, block.solver = logdet.seeded(config.seed, i), Solver()
    return double
