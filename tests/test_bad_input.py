"""Mistakes with transforms, nets and solvers end in one error that names the thing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from impflow_zoo import (
    ImpFlowTransform,
    LipschitzConvNet,
    LipschitzMLP,
    LogDet,
    ResFlowTransform,
    Solver,
)
from impflow_zoo.lipschitz.norms import LipschitzLinear

X = torch.zeros(4, 3)
C = torch.zeros(4, 2)


def spoilt(value, *rows):
    x = X.clone()
    x[list(rows), 1] = value
    return x


def block(context_features=None, activation="sin"):
    nets = [LipschitzMLP(3, (4,), activation, context_features=context_features) for _ in range(2)]
    return ImpFlowTransform(*nets).eval()


def images():
    return ResFlowTransform(LipschitzConvNet(1, (4, 4), 2, (3,))).eval()


@dataclass(frozen=True)
class Mistake:
    """A call that fails, and what the error says."""

    call: Callable[[], object]
    match: str
    error: type[Exception] = ValueError


# Mistakes of inputs and contexts: made with all four methods of a block.
INPUTS = {
    "too few features": (block(), (X[:, :2],), r"shape \(4, 2\): this net takes \[B, 3\]"),
    "too many dimensions": (block(), (X[..., None],), r"shape \(4, 3, 1\): this net takes"),
    "no rows": (block(), (X[0],), r"shape \(3,\): rows are needed, \[B, \.\.\.\]"),
    "integers": (block(), (X.int(),), r"type torch.int32: floating point is needed \(images"),
    "bytes": (images(), (torch.zeros(2, 1, 4, 4).byte(),), "uint8: .* dequantise to"),
    "rows for images": (images(), (X,), r"shape \(4, 3\): this net takes \[B, 1, 4, 4\]"),
    "size of images": (images(), (torch.zeros(2, 1, 5, 4),), r"this net takes \[B, 1, 4, 4\]"),
    "complex numbers": (block(), (X.cfloat(),), "complex64: floating point is needed"),
    "nan": (block(), (spoilt(math.nan, 2),), "inputs hold NaN or infinity in 1 of 4 rows: 2"),
    "infinity": (block(), (spoilt(-math.inf, 0, 3),), "NaN or infinity in 2 of 4 rows: 0, 3"),
    "many nans": (block(), (X.repeat(3, 1) + math.nan,), "12 of 12 rows: 0, 1, 2, 3, 4, ..."),
    "no context": (block(2), (X,), r"this net needs a context of shape \[B, 2\]"),
    "context of wrong width": (
        block(2),
        (X, torch.zeros(4, 5)),
        r"context of shape \(4, 5\): for 4 rows this net takes \[4, 2\]",
    ),
    "context too short": (block(2), (X, C[:3]), "3 context rows for 4 input rows"),
    "context of nan": (block(2), (X, C + math.nan), "context hold NaN or infinity in 4 of 4"),
    "wrong type": (block(), (X.double(),), "inputs of type torch.float64, parameters of type"),
    "context of wrong type": (block(2), (X, C.double()), r"context of type torch.float64"),
    "net of another shape": (
        ResFlowTransform(nn.Linear(3, 5)),
        (X,),
        r"maps shape \(4, 3\) to \(4, 5\); a residual map needs a net that keeps the shape",
    ),
    "odd number of pairs": (
        ResFlowTransform(LipschitzMLP(3, (5,), "maxmin")),
        (X,),
        "maxmin pairs channels; 5 is odd",
    ),
}


@pytest.mark.parametrize("method", ["forward", "inverse", "encode", "decode"])
@pytest.mark.parametrize(("transform", "arguments", "match"), INPUTS.values(), ids=INPUTS)
def test_inputs(transform, arguments, match, method):
    with pytest.raises(ValueError, match=match):
        getattr(transform, method)(*arguments)


CONSTRUCTIONS = {
    "activation": Mistake(
        lambda: LipschitzMLP(3, activation="relu6"),
        "unknown activation 'relu6': choose sin, lipswish, elu, softplus, clipswish, cpila, maxmin",
    ),
    "norm": Mistake(lambda: LipschitzMLP(3, norm="1"), "unknown norm '1': choose '2' or 'inf'"),
    "lipschitz of zero": Mistake(lambda: LipschitzMLP(3, lipschitz=0), "lipschitz=0: a positive"),
    "lipschitz below": Mistake(lambda: LipschitzMLP(3, lipschitz=-1), "lipschitz=-1: a positive"),
    "lipschitz of nan": Mistake(lambda: LipschitzMLP(3, lipschitz=math.nan), "lipschitz=nan"),
    "lipschitz of inf": Mistake(lambda: LipschitzMLP(3, lipschitz=math.inf), "lipschitz=inf"),
    "even kernel": Mistake(
        lambda: LipschitzConvNet(1, (4, 4), 2, (2,)), "kernel_size=2: an odd number is needed"
    ),
    "mixed norm": Mistake(
        lambda: LipschitzLinear(2, 2, domain=2, codomain=1),
        r"no closed form for the norm from p=2 to p=1: use \(2, 2\), domain 1, or codomain inf",
    ),
    "logdet": Mistake(
        lambda: ResFlowTransform(LipschitzMLP(3), logdet="exakt"),
        "unknown logdet 'exakt': choose auto, exact, unbiased, truncated",
    ),
    "series": Mistake(
        lambda: LogDet(series="neumann"), "unknown series 'neumann': choose solve, roulette"
    ),
    "no terms": Mistake(lambda: LogDet(n_terms=0), "n_terms >= 1 and n_probes >= 1"),
    "no probes": Mistake(lambda: LogDet(n_probes=0), "n_terms >= 1 and n_probes >= 1"),
    "method": Mistake(
        lambda: Solver("secant"),
        "unknown method 'secant': choose auto, fixed_point, anderson, broyden, newton",
    ),
    "rtol": Mistake(lambda: Solver(rtol=-1.0), r"Solver\(rtol=-1.0\): a tolerance is not neg"),
    "rtol of nan": Mistake(lambda: Solver(rtol=math.nan), r"Solver\(rtol=nan\)"),
    "atol": Mistake(lambda: Solver(atol=-1.0), r"Solver\(atol=-1.0\)"),
    "backward_rtol": Mistake(lambda: Solver(backward_rtol=-1.0), r"Solver\(backward_rtol=-1.0\)"),
    "max_steps": Mistake(lambda: Solver(max_steps=0), r"max_steps=0\): at least one step"),
    "missing weights": Mistake(
        lambda: block().load_state_dict({}),
        r"ImpFlowTransform: tensors \d+ missing .first: net_x",
        RuntimeError,
    ),
    "weights of another block": Mistake(
        lambda: block().load_state_dict(block(2).state_dict()), "unexpected", RuntimeError
    ),
    "weights of another size": Mistake(
        lambda: LipschitzMLP(3).load_state_dict(LipschitzMLP(4).state_dict()),
        "size mismatch",
        RuntimeError,
    ),
}


@pytest.mark.parametrize("mistake", CONSTRUCTIONS.values(), ids=CONSTRUCTIONS)
def test_constructions(mistake):
    with pytest.raises(mistake.error, match=mistake.match):
        mistake.call()


def test_a_net_that_turns_to_nan_is_no_root():
    """The parameters are at fault, not the inputs: the solver says what it met."""
    transform = block()
    with torch.no_grad():
        transform.net_z.layers[0].bias.fill_(math.nan)
    with pytest.raises(RuntimeError, match=r"4 of 4 rows .*NaN or infinity met"):
        transform.encode(X)
