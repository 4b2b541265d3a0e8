"""Leading singular vectors: what a Krylov space finds, and what it must not lose."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from impflow_zoo.lipschitz.convolutions import LipschitzConv2d, leading_vector

every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def test_krylov_space_beats_power_iteration() -> None:
    singular = torch.cat((torch.tensor([1.0, 0.99]), torch.linspace(0.0, 0.98, 98))).double()
    v = torch.ones(100, dtype=torch.float64)
    apply = lambda v: singular * v  # noqa: E731
    found, _ = leading_vector(apply, apply, v, 30)
    power = functional.normalize(singular**60 * v, dim=0)
    assert float(found[0].abs()) > 0.99 > float(power[0])


@every_dtype
@pytest.mark.parametrize("seed", range(5))
def test_a_space_that_is_exhausted_hides_no_norm(dtype: torch.dtype, seed: int) -> None:
    """Of a matrix with two singular values two steps find all; the others are rounding errors."""
    torch.manual_seed(seed)
    values = torch.tensor([3.0] * 40 + [1.0] * 60, dtype=dtype)
    apply = lambda v: values * v  # noqa: E731
    found, _ = leading_vector(apply, apply, torch.randn(100).to(dtype), 30)
    assert float((values * found).norm()) == pytest.approx(3.0, rel=1e-5)
    assert float(found.norm()) == pytest.approx(1.0, rel=1e-5)


@every_dtype
@pytest.mark.parametrize("size", [2, 3, 5, 12])
def test_the_leading_vector_itself_is_never_lost(dtype: torch.dtype, size: int) -> None:
    """What rounding leaves of an exhausted space may lie within it: another copy of the start."""
    matrix = torch.full((size, size), 3.0, dtype=dtype)
    found, _ = leading_vector(matrix.mv, matrix.mv, functional.normalize(matrix[0], dim=0), 8)
    assert float((matrix @ found).norm()) == pytest.approx(3 * size, rel=1e-5)


KERNELS = {
    "constant": lambda weight: torch.full_like(weight, 1 / 3),
    "one channel": lambda weight: weight * (torch.arange(weight.shape[1]) == 0)[:, None, None],
    "rank one": lambda weight: weight.sum(0, keepdim=True).expand_as(weight),
    "one column": lambda weight: weight * (torch.arange(weight.shape[-1]) == weight.shape[-1] // 2),
}


@every_dtype
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(
    ("shape", "channels", "kernel"), [((7, 2, 2), 8, 5), ((8, 4, 4), 8, 1), ((3, 6, 6), 5, 3)]
)
@pytest.mark.parametrize("make", KERNELS.values(), ids=KERNELS)
def test_kernels_of_low_rank_keep_their_bound(
    make, shape, channels, kernel, training, dtype
) -> None:
    for seed in range(6):
        torch.manual_seed(seed)
        layer = LipschitzConv2d(shape[0], channels, kernel, shape[1:], 0.9).to(dtype)
        with torch.no_grad():
            layer.weight.copy_(100 * make(layer.weight))
        layer.train(training)
        for _ in range(3):
            assert norm(layer, layer.normalised_weight().detach(), shape) <= 0.9 * 1.005


def norm(layer: LipschitzConv2d, weight: Tensor, shape: tuple[int, ...]) -> float:
    """The norm of the dense matrix of a convolution."""
    size = math.prod(shape)
    images = torch.eye(size, dtype=torch.float64).view(size, *shape)
    dense = functional.conv2d(images, weight.double(), padding="same").flatten(1)
    return float(torch.linalg.matrix_norm(dense, 2))
