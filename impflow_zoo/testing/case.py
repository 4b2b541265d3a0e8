"""A block under test, and dense references to compare it with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck

from impflow_zoo.lipschitz.norms import LipschitzLayer
from impflow_zoo.numerics.logdet import LogDet
from impflow_zoo.transforms.base import ResidualBlock

__all__ = [
    "OTHER_WAY",
    "TRUNCATED",
    "BlockCase",
    "CaseLaws",
    "check_gradients",
    "dense_logdet",
    "eval_and_train",
    "every_direction",
    "every_dtype",
    "every_mode",
    "fixed_modes",
    "jacobian",
    "tighten",
    "values",
]

Reference = Callable[[ResidualBlock, Tensor, Tensor | None], tuple[Tensor, Tensor]]

TRUNCATED = LogDet("truncated", n_terms=6, n_probes=2)
FIXED_MODES: dict[str, str | LogDet] = {"exact": "exact", "truncated": TRUNCATED}
MODES: dict[str, str | LogDet] = {
    **FIXED_MODES,
    "unbiased": "unbiased",
    "roulette": LogDet("unbiased", series="roulette"),
}
OTHER_WAY = {"forward": "inverse", "inverse": "forward"}
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]

every_direction = pytest.mark.parametrize("direction", OTHER_WAY)
every_dtype = pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32], ids=["float64", "float32"]
)
fixed_modes = pytest.mark.parametrize("logdet", FIXED_MODES.values(), ids=FIXED_MODES)
every_mode = pytest.mark.parametrize("logdet", MODES.values(), ids=MODES)
eval_and_train = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])


@dataclass(frozen=True)
class BlockCase:
    """A block under test.

    Arguments:
        make: constructor of the block; takes its `logdet`.
        shape: shape of one row of its input.
        context_features: size of a context row, or None for blocks without.
        lipschitz: bound on the Lipschitz constants of the block's nets, below 1. The allowed
            round-trip error is the rounding error times `1 / (1 - lipschitz)`.
        norm: the p of the norm of this bound.
        reference: `(block, x, context) -> (z, logabsdet)`, a second, dense and simple
            computation of `forward`; None for none.
    """

    make: Callable[[str | LogDet], ResidualBlock]
    shape: tuple[int, ...]
    context_features: int | None = None
    lipschitz: float = 0.9
    norm: float = 2.0
    reference: Reference | None = None

    def build(
        self,
        logdet: str | LogDet = "exact",
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> ResidualBlock:
        """The block in evaluation mode, with weights that reach the Lipschitz bounds."""
        block = self.make(logdet)
        tighten(block)
        return block.to(device, dtype).eval()

    def draw(
        self,
        rows: int = 5,
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> tuple[Tensor, Tensor | None]:
        """Random inputs, and contexts if the block takes them.

        Arguments:
            rows: number of rows, `B`.
            dtype, device: type and place of both.

        Returns:
            Inputs with shape `[B, *shape]`, and contexts `[B, context_features]` or None.
        """
        x = 2 * torch.randn(rows, *self.shape, dtype=dtype)
        size = self.context_features
        context = None if size is None else torch.randn(rows, size, dtype=dtype).to(device)
        return x.to(device), context

    def length(self, x: Tensor) -> Tensor:
        """The norm of each row, `[B]`."""
        return torch.linalg.vector_norm(x.flatten(1), ord=self.norm, dim=1)

    def rounding(self, *points: Tensor) -> Tensor:
        """The round-trip error of the points that rounding alone allows, `[B]`."""
        size = torch.stack([self.length(x) for x in points]).amax(dim=0)
        return 8 * torch.finfo(points[0].dtype).eps * (1 + size) / (1 - self.lipschitz)


class CaseLaws:
    """Fixtures of the laws: sub-classes set `case`, or override the fixture `block_case`."""

    case: ClassVar[BlockCase]

    @pytest.fixture
    def block_case(self) -> BlockCase:
        """The block under test."""
        return self.case

    @pytest.fixture(autouse=True)
    def _seed(self) -> None:
        torch.manual_seed(0)

    @pytest.fixture(params=DEVICES)
    def device(self, request: pytest.FixtureRequest) -> torch.device:
        """Every available device."""
        return torch.device(request.param)


def tighten(module: nn.Module, factor: float = 5.0) -> None:
    """Enlarge the weights of Lipschitz layers, so that they reach their bound."""
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, LipschitzLayer):
                layer.weight.mul_(factor)


def values(block: ResidualBlock, direction: str) -> Callable[..., Tensor]:
    """The method of a direction without the log-determinant."""
    return {"forward": block.encode, "inverse": block.decode}[direction]


def jacobian(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Dense Jacobians of a map whose rows do not interact, `[B, d, d]`, by plain autograd.

    Arguments:
        f: the map.
        x: points, `[B, ...]`.
    """
    x = x.detach().clone().requires_grad_()
    y = f(x).flatten(1)
    rows = [
        torch.autograd.grad(y[:, i].sum(), x, retain_graph=True)[0].flatten(1)
        for i in range(y.shape[1])
    ]
    return torch.stack(rows, dim=1)


def dense_logdet(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`log|det df/dx|` of every row, `[B]`.

    Arguments:
        f: a map whose rows do not interact.
        x: points, `[B, ...]`.
    """
    return torch.linalg.slogdet(jacobian(f, x)).logabsdet


def check_gradients(loss: Callable[[], Tensor], tensors: list[Tensor]) -> None:
    """Compare derivatives of a scalar with finite differences, along random directions.

    Arguments:
        loss: a function of the tensors, which it reads from where they are.
        tensors: float64 leaves that require grad.

    Raises:
        AssertionError: without tensors.
        torch.autograd.gradcheck.GradcheckError: if they differ by more than a relative 1e-5.
    """
    assert tensors
    assert gradcheck(
        lambda *_: loss(), tuple(tensors), fast_mode=True, eps=1e-6, atol=1e-7, rtol=1e-5
    )
