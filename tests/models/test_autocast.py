"""Within autocast densities, latents and samples are those of the model's own type, bit by bit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from support import image_models, small_models
from torch import Tensor

from impflow_zoo import (
    ImpFlow,
    LogDet,
    MixtureConfig,
    MixtureDensityNetwork,
    MonotoneFlow,
    ResFlow,
    SplineConfig,
    SplineFlow,
    TabularConfig,
)
from impflow_zoo.models.flow import FlowModel

SMALL = {"features": 2, "blocks": 1, "hidden_features": (8, 8), "lipschitz": 0.8}
FEW = LogDet("truncated", n_terms=3)
LABEL = {"logdet": FEW, "context_columns": ["label"], "classes": 3, "whiten": True, "blocks": (1,)}
MODELS: dict[str, Callable[[], FlowModel]] = {
    "ImpFlow": lambda: small_models.make(ImpFlow),
    "ResFlow": lambda: small_models.make(ResFlow, whiten=True, net="sandwich"),
    "MonotoneFlow": lambda: small_models.make(MonotoneFlow, blocks=1),
    "given": lambda: ImpFlow(TabularConfig(**SMALL, context_features=1, embedding_net=(6, 5))),
    "SplineFlow": lambda: SplineFlow(SplineConfig(2, blocks=2, hidden_features=8)),
    "mixture": lambda: MixtureDensityNetwork(MixtureConfig(2, context_features=1)),
    "images": lambda: image_models.make("whitened", blocks=(1,), logdet=FEW),
    "images-labels": lambda: image_models.make(kind=ResFlow, **LABEL),
}
every_model = pytest.mark.parametrize("name", MODELS)
every_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def made(name: str, *, training: bool) -> tuple[FlowModel, Tensor, Tensor | None]:
    """A model in float32, with rows and contexts."""
    model = MODELS[name]().float().train(training)
    context = None if model.config.context_features is None else torch.ones(3, 1)
    return model, torch.rand(3, *model.config.shape), context


def answers(model: FlowModel, x: Tensor, context: Tensor | None) -> Iterator[Tensor]:
    """What users ask of a model; random numbers are the same in every call."""
    torch.manual_seed(0)
    own = copy.deepcopy(model)  # training changes vectors of norms
    yield from own.log_prob_with_error(x, context)
    yield own.flow.log_prob(x, context)
    z, logabsdet = own.transform(x, context)
    yield from (z, logabsdet, *own.transform.inverse(z, context))
    yield from (own.encode(x, context), own.decode(z, context), own.sample(2, context))


@every_model
@every_mode
@torch.no_grad()
def test_numbers_are_the_same(name: str, training: bool) -> None:
    rows = made(name, training=training)
    expected = list(answers(*rows))
    for narrow in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", narrow):
            found = list(answers(*rows))
        for ours, value in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, value, rtol=0, atol=0, equal_nan=True)


@every_model
@every_mode
def test_gradients_are_the_same(name: str, training: bool) -> None:
    model, x, context = made(name, training=training)
    gradients = []
    for narrow in (False, True):
        own, inputs = copy.deepcopy(model), x.clone().requires_grad_()
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            loss = -own.log_prob(inputs, context).mean()
        loss.backward()
        assert all(p.grad is not None for p in own.parameters())
        gradients.append([inputs.grad, *(p.grad for p in own.parameters())])
    for expected, ours in zip(*gradients, strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("name", ["SplineFlow", "mixture", "ImpFlow", "images"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_of_half_precision_are_refused(name, dtype):
    model, x, context = made(name, training=False)
    model.to(dtype)
    for call in (lambda: model.log_prob(x, context), lambda: model.encode(x, context)):
        with pytest.raises(ValueError, match=r"convert the model by \.float\(\)"):
            call()
