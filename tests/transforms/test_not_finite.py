"""NaN, infinity and overflow: one error that names a weight or rows, never a result."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from support.blocks import BLOCKS, IMAGE_BLOCKS, NETS
from support.blocks import Linear as LinearNet
from support.small_models import make
from torch import Tensor, nn

from impflow_zoo import (
    ImageConfig,
    ImpFlow,
    MixtureConfig,
    MixtureDensityNetwork,
    MonotoneFlow,
    NumericalWarning,
    ResFlow,
    ResFlowTransform,
    SandwichMLP,
    SplineConfig,
    SplineFlow,
)
from impflow_zoo.numerics.finite import NotFiniteError
from impflow_zoo.numerics.logdet import NoContractionError
from impflow_zoo.testing import BlockCase

Guard = Callable[[], AbstractContextManager[object]]
WAYS = ("encode", "decode", "forward", "inverse")
CASES = {
    name: (BLOCKS | IMAGE_BLOCKS)[name]
    for name in (
        "resflow-sin",
        "resflow-user-image",
        "impflow-sandwich-elu-context",
        "monotone-sin",
        "resflow-conv-image",
        "impflow-dense-image",
    )
}
every_case = pytest.mark.parametrize("block_case", CASES.values(), ids=CASES)
every_mode = pytest.mark.parametrize("logdet", ["exact", "truncated", "unbiased"])


every_guard = pytest.mark.parametrize("guard", [torch.enable_grad, torch.inference_mode])


@every_mode
@every_case
@every_guard
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_weight_that_is_no_number_is_named(
    block_case: BlockCase, logdet: str, bad: float, guard: Guard
) -> None:
    block = block_case.build(logdet)
    x, context = block_case.draw()
    *_, (key, weight) = [pair for pair in block.named_parameters() if "weight" in pair[0]]
    with torch.no_grad():
        weight.flatten()[0] = bad
    for way in WAYS if logdet == "exact" else WAYS[2:]:
        named = rf"the weight {re.escape(key)} holds NaN or infinity"
        with guard(), pytest.raises(NotFiniteError, match=named):
            getattr(block, way)(x, context)


LARGE = {torch.float32: 2e38, torch.float64: 1e308}


def named_or_right(call: Callable[[], Tensor | tuple[Tensor, ...]]) -> str:
    """What is said of the fourth of five rows; nothing if all results are finite.

    With functions that are finite at infinity results are right, however large the inputs are.
    """
    try:
        found = call()
    except NotFiniteError as error:
        text = str(error)
        return text if "in 1 of 5 rows: 3" in text else pytest.fail(text)
    tensors = found if isinstance(found, tuple) else (found,)
    return "" if all(t.isfinite().all() for t in tensors) else pytest.fail("not finite")


@every_mode
@every_case
@every_guard
@pytest.mark.parametrize("dtype", LARGE, ids=str)
def test_rows_too_large_are_named(
    block_case: BlockCase, logdet: str, dtype: torch.dtype, guard: Guard
) -> None:
    block = block_case.build(logdet, dtype=dtype)
    x, context = block_case.draw(dtype=dtype)
    x[3] = LARGE[dtype]
    for way in WAYS if logdet == "exact" else WAYS[2:]:
        with guard():
            text = named_or_right(lambda way=way: getattr(block, way)(x, context))
        assert not text or text.endswith(f"too large for {dtype}")


def test_a_slope_that_overflows_is_told_from_one_that_is_too_steep() -> None:
    class Softplus(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0.5 * torch.where(x < 50, x.exp().log1p(), x)  # its gradient adds 0 * infinity

    x = torch.tensor([[1.0, 0.0], [1e3, 0.0]])
    block = ResFlowTransform(Softplus(), "exact").eval()
    with pytest.raises(NotFiniteError, match="1 of 2 rows: 1: .*too large"):
        block(x)
    steep = ResFlowTransform(LinearNet(torch.diag(torch.tensor([-2.0, 0.0]))), "exact").eval()
    with pytest.raises(NoContractionError, match="in 2 of 2 rows"):
        steep(x)


@pytest.mark.parametrize("features", [2, 12])
def test_rows_whose_roots_overflow_are_named(features: int) -> None:
    for seed, large in itertools.product(range(6), (2e38, -2e38)):
        torch.manual_seed(seed)
        block = ResFlowTransform(SandwichMLP(features, (8, 8), "elu")).eval()
        z = torch.randn(5, features)
        z[3] = large
        named_or_right(lambda block=block, z=z: block.decode(z))


def test_rows_whose_sum_overflows_are_no_mistake() -> None:
    block = ResFlowTransform(NETS["elu-context"].make()).eval()
    x = torch.full((4, 3), 1.5e38)
    z, logabsdet = block(x, torch.zeros(4, 2))
    assert z.isfinite().all()
    assert logabsdet.isfinite().all()


@pytest.mark.parametrize("logdet", ["exact", "truncated", "unbiased"])
def test_in_training_a_result_may_be_no_number(logdet: str) -> None:
    """The trainer skips a step whose loss is not finite, or which raises such an error."""
    block = BLOCKS["resflow-sin"].build(logdet).train()
    x, _ = BLOCKS["resflow-sin"].draw()
    with torch.no_grad():
        block.net.layers[0].weight[0, 0] = torch.nan
    assert block.encode(x).isnan().any()
    if logdet == "exact":
        with pytest.raises(NotFiniteError, match="the weight net.layers.0.weight holds NaN"):
            block(x)
    else:
        with pytest.warns(NumericalWarning, match="diverges in 5 of 5 rows"):
            assert block(x)[1].isnan().all()


# --- models ---------------------------------------------------------------------------------------

MODELS: dict[str, Callable[[], nn.Module]] = {
    "resflow": lambda: make(ResFlow, whiten=True, dtype=torch.float32),
    "impflow": lambda: make(
        ImpFlow, blocks=1, context_features=2, embedding_net=(4, 3), dtype=torch.float32
    ),
    "monotone": lambda: make(MonotoneFlow, dtype=torch.float32),
    "mixed": lambda: make(
        ImpFlow, blocks=["implicit", "spline-autoregressive"], dtype=torch.float32
    ),
    "spline-coupling": lambda: SplineFlow(SplineConfig(2, blocks=2, hidden_features=8)),
    "spline-autoregressive": lambda: SplineFlow(
        SplineConfig(2, blocks=2, hidden_features=8, layers="autoregressive", whiten=True)
    ),
    "mixture": lambda: MixtureDensityNetwork(MixtureConfig(2, hidden_features=8)),
    "images": lambda: ResFlow(ImageConfig(1, (4, 4), blocks=(1, 1), width=4)),
}
CALLS: dict[str, Callable[..., object]] = {
    "log_prob": lambda model, x, z, c: model.log_prob(x, c),
    "log_prob_with_error": lambda model, x, z, c: model.log_prob_with_error(x, c),
    "encode": lambda model, x, z, c: model.encode(x, c),
    "decode": lambda model, x, z, c: model.decode(z, c),
    "transform": lambda model, x, z, c: model.transform(x, c),
    "inverse": lambda model, x, z, c: model.transform.inverse(z, c),
    "sample": lambda model, x, z, c: model.sample(3, None if c is None else c[:2]),
}
every_model = pytest.mark.parametrize("name", MODELS)


def drawn(name: str) -> tuple[nn.Module, Tensor, Tensor, Tensor | None]:
    """A model with rows, noise and contexts."""
    model = MODELS[name]().eval()
    shape, size = model.config.shape, model.config.context_features
    context = None if size is None else torch.randn(5, size)
    x, z = torch.rand(5, *shape), torch.randn(5, math.prod(shape))
    if name != "images":
        x = model.decode(0.5 * torch.randn(5, *shape), context).detach()
    return model, x, z, context


@every_model
def test_a_weight_of_a_model_that_is_no_number_is_named(name: str) -> None:
    model, *given = drawn(name)
    calls = itertools.cycle(CALLS.values())
    for key, parameter in model.named_parameters():
        own = re.escape(key.removeprefix("flow._transform."))
        before = parameter.detach().clone()
        nn.init.constant_(parameter, torch.nan)
        for call in itertools.islice(calls, 3):
            with pytest.raises(NotFiniteError, match=rf"the weight {own} holds NaN or infinity"):
                call(model, *given)
        with torch.no_grad():
            parameter.copy_(before)


@pytest.mark.filterwarnings("ignore:in 1 of 1 rows of noise far")  # far from zero digits are lost
@every_model
@pytest.mark.parametrize("dtype", LARGE, ids=str)
def test_rows_of_a_model_that_are_too_large_are_named(name: str, dtype: torch.dtype) -> None:
    model, *given = drawn(name)
    model.to(dtype)
    x, z, context = (None if t is None else t.to(dtype) for t in given)
    z[3] = LARGE[dtype]
    if name != "images":
        x[3] = LARGE[dtype]
    for way in ("log_prob", "encode", "decode", "transform", "inverse"):
        text = named_or_right(lambda way=way: CALLS[way](model, x, z, context))
        assert text or way != "log_prob" or name == "images"


@pytest.mark.filterwarnings("ignore:in 1 of 1 rows of noise far")
@pytest.mark.parametrize("layers", ["coupling", "autoregressive"])
def test_rows_whose_splines_are_no_numbers_are_named(layers: str) -> None:
    """A column that is large alone makes the splines of the others."""
    config = SplineConfig(2, blocks=2, hidden_features=8, layers=layers)
    for seed in range(6):
        torch.manual_seed(seed)
        model, z = SplineFlow(config).double().eval(), torch.randn(5, 2, dtype=torch.float64)
        z[3, 0] = 1e308
        named_or_right(lambda model=model, z=z: model.decode(z))
