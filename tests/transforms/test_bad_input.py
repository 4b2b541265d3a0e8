"""Mistakes with blocks and layers: one clear line for each, whatever the library around them."""

from __future__ import annotations

import normflows as nf
import numpy as np
import pytest
import torch
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.transforms import CompositeTransform
from torch import Tensor, nn

from impflow_zoo import (
    ImageConfig,
    ImpFlow,
    ImpFlowTransform,
    LipschitzConvNet,
    LipschitzMLP,
    LogDet,
    ResFlowTransform,
    SandwichMLP,
    Solver,
    TabularConfig,
    evaluate,
)
from impflow_zoo.lipschitz.published_nets import PublishedMLP
from impflow_zoo.normflows import ResFlowLayer, from_residual
from impflow_zoo.transforms.actnorm import ActNorm
from impflow_zoo.transforms.base import ResidualBlock, Step


def mlp(features: int = 3, context: int | None = None) -> LipschitzMLP:
    return LipschitzMLP(features, (4,), context_features=context)


def block(context: int | None = None) -> ResFlowTransform:
    return ResFlowTransform(mlp(context=context)).eval()


X, C = torch.zeros(5, 3), torch.zeros(5, 2)
BASE = nf.distributions.DiagGaussian(3)
BLOCK = block()


def steep() -> nf.flows.Residual:
    net = nf.nets.LipschitzMLP([3, 4, 3], init_zeros=False)
    with torch.no_grad():
        for layer in net.net[1::2]:
            layer.weight.mul_(20)  # nobody called update_lipschitz
            layer.u.normal_()
            layer.v.normal_()
    return nf.flows.Residual(net)


class Pair(nn.Module):
    """A net that has something to add."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Hidden(nn.Module):
    """A net that does not tell how its answer depends on the input."""

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * torch.sin(x)


class Detached(nn.Module):
    """Another one, whose parameters are in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * torch.sin(x.detach())


def under_autocast(of: nn.Module, *arguments: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return of(*arguments)


def nflows_flow(context: int | None = None) -> Flow:
    return Flow(CompositeTransform([block(context)]), StandardNormal([3]))


@torch.inference_mode()
def made_in_inference_mode() -> ResFlowTransform:
    return block()


BAD = {
    "context-missing": (lambda: block(2)(X), r"needs a context of shape \[B, 2\]"),
    "context-missing-nflows": (lambda: nflows_flow(2).log_prob(X), r"needs a context of shape"),
    "context-missing-normflows": (
        lambda: nf.NormalizingFlow(BASE, [ResFlowLayer(mlp(context=2))]).log_prob(X),
        r"needs a context of shape \[B, 2\]",
    ),
    "context-missing-model": (
        lambda: ImpFlow(TabularConfig(3, blocks=1, context_features=2)).log_prob(X),
        r"needs a context of shape \[B, 2\]",
    ),
    "context-size": (lambda: block(2)(X, X), r"context of shape \(5, 3\).*takes \[5, 2\]"),
    "context-rows": (lambda: block(2)(X, C[:4]), "4 context rows for 5 input rows"),
    "context-nan": (lambda: block(2)(X, C / 0), "context with NaN or infinity .*5 of 5"),
    "input-wider": (lambda: block()(X.double()), r"inputs of type torch.float64, param.*float32"),
    "input-narrower": (
        lambda: block().double()(X),
        r"inputs .*float32, parameters .*float64: .*\.to\(torch.float64\)",
    ),
    "context-wider": (
        lambda: block(2)(X, C.double()),
        r"inputs .*float32, context .*float64: .*to\(torch.float32\)",
    ),
    "input-list": (lambda: block()([[0.0] * 3]), "inputs of type list: a torch tensor"),
    "context-array": (
        lambda: block(2)(X, C.numpy()),
        "context of type ndarray: a torch tensor",
    ),
    "parameters-half": (
        lambda: block().half()(X.half()),
        r"parameters of type torch.float16: .* by .float\(\)$",
    ),
    "net-a-function": (lambda: ImpFlowTransform(mlp(), torch.sin), "a torch module is needed"),
    "net-a-number": (lambda: ImpFlowTransform(3, mlp()), "net_x=3: a torch module is needed"),
    "parameters-of-inference": (
        lambda: made_in_inference_mode()(X),
        "parameters .* torch.inference_mode.* outside",
    ),
    "logdet-tolerance": (
        lambda: ResFlowTransform(mlp(), LogDet(rtol=-1.0)),
        r"LogDet\(rtol=-1.0\): a tolerance between 0 and 1",
    ),
    "logdet-terms": (lambda: LogDet(n_terms=2.5), r"n_terms=2.5\): a whole number .*1"),
    "logdet-probes": (lambda: LogDet(n_probes="a"), r"n_probes='a'\): a whole number"),
    "logdet-seed": (lambda: LogDet(seed=-1), r"seed=-1\): a whole number .*0"),
    "logdet-rtol-text": (lambda: LogDet(rtol="1e-6"), r"rtol='1e-6'\): a tolerance between 0 and"),
    "solver-rtol-true": (lambda: Solver(rtol=True), r"rtol=True\): a tolerance of at least 0"),
    "solver-steps-true": (lambda: Solver(max_steps=True), r"max_steps=True\): a whole number"),
    "bound-above-1": (
        lambda: ResFlowTransform(LipschitzMLP(3, lipschitz=1.5)),
        "net has lipschitz=1.5: .*below 1",
    ),
    "sandwich-without-frequency": (lambda: SandwichMLP(3, frequency=None), "a number is needed"),
    "net-a-class": (lambda: ImpFlowTransform(mlp(), LipschitzMLP), "net_z=.*a torch module is"),
    "second-net": (
        lambda: ResFlowTransform(mlp(), mlp()),
        "logdet of type LipschitzMLP: a LogDet .*auto, exact",
    ),
    "solver-set-by-name": (
        lambda: setattr(block(), "solver", "newton"),
        "solver='newton': a Solver is needed",
    ),
    "logdet-set-to-nothing": (
        lambda: setattr(block(), "logdet", None),
        "logdet of type NoneType: a LogDet",
    ),
    "autocast-double": (
        lambda: under_autocast(block(), X.double()),
        "inputs .*float64, parameters .*float32: convert either",
    ),
    "autocast-narrow-parameters": (
        lambda: under_autocast(block().to(torch.bfloat16), X),
        "parameters of type torch.bfloat16: .*float64 is needed",
    ),
    "net-without-a-graph": (
        lambda: ResFlowTransform(Hidden())(X + 1),
        "graph does not lead to the input",
    ),
    "net-with-parameters-without-a-graph": (
        lambda: ResFlowTransform(Detached(), "exact")(X + 1),
        "graph does not lead to the input",
    ),
    "autocast-double-context": (
        lambda: under_autocast(block(2), X, C.double()),
        "inputs .*float32, context .*float64: convert either",
    ),
    "temperature-text": (
        lambda: ImpFlow(TabularConfig(2, blocks=1)).sample(2, temperature="1"),
        "temperature='1': a finite number",
    ),
    "sample-context-of-no-dimension": (
        lambda: ImpFlow(TabularConfig(2, blocks=1, context_features=1)).sample(
            2, torch.tensor(1.0)
        ),
        r"context of shape \(\): .*\[B, 1\]",
    ),
    "standardise-a-column": (
        lambda: ImpFlow(TabularConfig(2, blocks=1)).fit_preprocessing(torch.arange(3.0)),
        r"rows of shape \(3,\): .*\[B, 2\]",
    ),
    "standardise-nan": (
        lambda: ImpFlow(TabularConfig(3, blocks=1)).fit_preprocessing(X / 0),
        "rows with NaN .* 5 of 5",
    ),
    "standardise-no-tensor": (
        lambda: ImpFlow(TabularConfig(2, blocks=1)).fit_preprocessing([[1.0, 2.0]]),
        "rows of type list: a torch tensor",
    ),
    "standardise-images": (
        lambda: ImpFlow(ImageConfig(1, (4, 4), blocks=(1,), width=2)).fit_preprocessing(
            torch.zeros(2, 1, 4, 4)
        ),
        "this model's preprocessing is fixed",
    ),
    "solver-by-name": (
        lambda: ResFlowTransform(mlp(), solver="newton"),
        r"solver='newton': .*Solver\(method='newton'\)",
    ),
    "input-whole": (lambda: block()(X.long()), "inputs of type torch.int64: floating point"),
    "input-device": (
        lambda: block()(X.to("meta")),
        "inputs .*meta, context or parameters .*cpu: ",
    ),
    "block-device": (
        lambda: block().to("meta").decode(X),
        "inputs .*cpu, context or parameters .*meta: ",
    ),
    "context-device": (
        lambda: block(2)(X, C.to("meta")),
        "inputs .*cpu, context or parameters .*meta: ",
    ),
    "input-size": (lambda: block()(X[:, :2]), r"input of shape \(5, 2\): .*\[B, 3\]"),
    "context-whole": (lambda: block(2)(X, C.long()), "context of type torch.int64: floating point"),
    "context-whole-images": (
        lambda: LipschitzConvNet(3, (4, 4), 4, context_features=2)(
            torch.zeros(5, 3, 4, 4), C.long()
        ),
        "context of type torch.int64: floating point",
    ),
    "net-of-two-tensors": (
        lambda: ResFlowTransform(Pair())(X),
        "the net returns a tuple",
    ),
    "net-of-another-result": (
        lambda: ResFlowTransform(nn.Linear(3, 2))(X),
        r"^the net maps shape \(5, 3\) to \(5, 2\); a residual map needs",
    ),
    "torch-func-random": (
        lambda: torch.func.grad(lambda x: ResFlowTransform(mlp(), "unbiased")(x)[1].sum())(X),
        "random log-determinants .*torch.func.* logdet='exact'",
    ),
    "torch-func-large-root": (
        lambda: torch.func.grad(lambda x: ResFlowTransform(mlp(513)).decode(x).sum())(
            torch.zeros(1, 513)
        ),
        "513 features .*torch.func: 512 at most",
    ),
    "torch-func-nan": (
        lambda: torch.func.vmap(lambda row: BLOCK(row[None])[0])(X + torch.nan),
        "inputs with NaN or infinity .*: 0, 1",
    ),
    "torch-func-published": (
        lambda: torch.func.grad(
            lambda x: ResFlowTransform(PublishedMLP(3, (4,), norm="2"))(x)[0].sum()
        )(X),
        r"power vectors .*torch.func.* eval\(\) before",
    ),
    "torch-func-first-batch": (
        lambda: torch.func.grad(lambda x: ActNorm(3)(x)[0].sum())(X),
        "ActNorm .* first batch.* training rows before",
    ),
    "step-of-another-sign": (lambda: Step("net", sign=0.5), r"sign=0.5: 1 or -1 is needed"),
    "no-steps": (
        lambda: type("Mine", (ResidualBlock,), {})("auto", None),
        r"Mine.steps: a tuple .*\(Step\('net'\),\)",
    ),
    "steps-of-names": (
        lambda: type("Mine", (ResidualBlock,), {"steps": ("net",)})("auto", None),
        "Mine.steps: a tuple of Step is needed",
    ),
    "one-step": (
        lambda: type("Mine", (ResidualBlock,), {"steps": Step("net")})("auto", None),
        "Mine.steps: a tuple of Step is needed",
    ),
    "solver-half-a-step": (lambda: Solver(max_steps=2.5), r"max_steps=2.5\): a whole number"),
    "solver-tolerance": (lambda: Solver(rtol="a"), r"rtol='a'\): a tolerance of at least 0"),
    "solver-a-vector": (lambda: Solver().solve(mlp(), X[0]), r"y of shape \(3,\) .* rows of"),
    "solver-whole": (
        lambda: Solver().solve(mlp(), X.long()),
        "torch.int64: rows of float32 or float64",
    ),
    "config-none": (lambda: ImpFlow(None), "kind 'tabular' or 'image', not 'NoneType'"),
    "columns-twice": (
        lambda: TabularConfig(2, columns=("a", "a")),
        r"columns=\('a', 'a'\): each once expected",
    ),
    "evaluate-a-module": (lambda: evaluate(mlp()), "model of type LipschitzMLP: "),
    "evaluate-half-a-row": (
        lambda: evaluate(ImpFlow(TabularConfig(2)), "toy:moons", limit=2.5),
        "limit=2.5: a whole number is needed",
    ),
    "images-no-tensor": (
        lambda: ImpFlow(ImageConfig(image_size=(4, 4))).bits_per_dim(np.zeros((1, 3, 4, 4))),
        "images of type ndarray: a torch tensor",
    ),
    "images-of-another-shape": (
        lambda: ImpFlow(ImageConfig(image_size=(4, 4))).flow.log_prob(torch.rand(2, 1, 4, 4)),
        r"inputs of shape \(2, 1, 4, 4\): .*\[B, 3, 4, 4\]",
    ),
    "residual-of-another-kind": (
        lambda: from_residual(nf.flows.ActNorm(3)),
        "layer of type ActNorm: .*normflows.flows.Residual",
    ),
    "residual-above-1": (
        lambda: from_residual(steep()),
        "needs less than 1: run normflows.utils.update_lipschitz",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_named_in_one_line(name):
    mistake, message = BAD[name]
    with pytest.raises((TypeError, ValueError, RuntimeError), match=message) as caught:
        mistake()
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 250


def test_the_same_without_the_mistakes():
    assert block(2)(X, C)[0].shape == X.shape
    assert block().double()(X.double())[0].dtype == torch.float64
    block().load_state_dict(block().state_dict())
    nf.utils.update_lipschitz(residual := steep(), 100)
    from_residual(residual)


def test_autocast_and_narrow_inputs_are_no_mistake():
    assert block()(X.bfloat16())[0].dtype == torch.float32
    conditional = block(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert conditional(X.bfloat16(), C.bfloat16())[0].dtype == torch.float32


def test_an_error_of_a_net_is_torch_s_own_with_a_note_of_the_shapes():
    class Uneven(nn.Module):  # works on 64 rows alone
        def forward(self, x):
            return 0.1 * (x + torch.zeros(64, 3))

    shapes = "rows of shape (5, 3)"
    bilinear = nn.Bilinear(3, 1, 3)
    for net, context, given in (
        (nn.Linear(2, 2), None, shapes),
        (Uneven(), None, shapes),
        (bilinear, C, f"{shapes}, contexts (5, 2)"),
    ):
        with pytest.raises(RuntimeError) as caught:
            ResFlowTransform(net)(X, context)
        (note,) = caught.value.__notes__
        assert note == f"ResFlowTransform called its nets on {given}: are they made for these?"
