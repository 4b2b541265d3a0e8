"""Bounds of convolutions beside the norm of the dense operator."""

from __future__ import annotations

import math

import pytest
import torch
from support.dense_convolution import matrix
from torch import Tensor

from impflow_zoo.lipschitz import convolution_bound
from impflow_zoo.lipschitz.convolution_bound import convolution_norm_bound
from impflow_zoo.lipschitz.convolutions import LipschitzConv2d

SHAPES = [
    pytest.param(8, 3, 3, (6, 5), id="narrow-input"),
    pytest.param(3, 8, 3, (5, 6), id="narrow-output"),
    pytest.param(4, 6, 1, (1, 1), id="matrix"),
    pytest.param(2, 2, 5, (3, 4), id="kernel-larger-than-image"),
    pytest.param(5, 5, 3, (1, 4), id="one-row"),
    pytest.param(5, 4, 5, (7, 9), id="5x5"),
]


def dense_norm(weight: Tensor, size: tuple[int, int]) -> float:
    """The norm of the operator as a dense matrix."""
    return float(torch.linalg.matrix_norm(matrix(weight, size), 2))


@pytest.mark.parametrize(("outer", "inner", "kernel", "size"), SHAPES)
def test_bound_is_above_the_norm_and_as_close_as_the_estimate(
    outer: int, inner: int, kernel: int, size: tuple[int, int]
) -> None:
    weight = torch.randn(outer, inner, kernel, kernel, dtype=torch.float64)
    norm = dense_norm(weight, size)
    for close, slack in [(norm, 1e-6), (norm * (1 - 1e-6), 1e-5), (norm * (1 - 1e-4), 1e-3)]:
        bound = convolution_norm_bound(weight, size, lambda _, close=close: close)
        assert norm <= bound <= norm * (1 + slack)


@pytest.mark.parametrize(("outer", "inner", "kernel", "size"), SHAPES)
@pytest.mark.parametrize("estimate", [0.0, 0.5, math.nan])
def test_a_wrong_estimate_makes_no_wrong_bound(
    outer: int, inner: int, kernel: int, size: tuple[int, int], estimate: float
) -> None:
    weight = torch.randn(outer, inner, kernel, kernel, dtype=torch.float64)
    norm = dense_norm(weight, size)
    assert norm <= convolution_norm_bound(weight, size, lambda _: estimate * norm)


@pytest.mark.parametrize("channels", [(3, 16), (16, 3)])
def test_fourier_bound_of_larger_images_is_above_the_norm_and_close(
    channels: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution_bound, "_FACTORED", 0)
    weight = torch.randn(*channels, 3, 3, dtype=torch.float64)
    norm = dense_norm(weight, (13, 14))
    assert norm <= convolution_norm_bound(weight, (13, 14), lambda _: norm) <= 1.01 * norm


@pytest.mark.parametrize("stripes", [(1, 1), (1, -1), (-1, -1)])
def test_fourier_bound_of_smooth_kernels_is_within_a_percent(
    stripes: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution_bound, "_FACTORED", 0)
    a, b = stripes
    signs = torch.tensor([[float(a**i * b**j) for j in range(3)] for i in range(3)])
    weight = signs[None, None].double()  # a mean of pixels dampens all but the lowest frequencies
    norm = dense_norm(weight, (16, 16))
    assert norm <= convolution_norm_bound(weight, (16, 16), lambda _: norm) <= 1.01 * norm


@pytest.mark.parametrize(
    ("channels", "kernel", "size"),
    [
        *((24, 3, (8, 8)), (60, 3, (4, 4)), (6, 5, (16, 16)), (400, 3, (2, 2))),
        pytest.param(48, 3, (16, 16), marks=pytest.mark.slow),
    ],
)
def test_layers_on_small_maps_are_bounded_within_a_millionth(
    channels: int, kernel: int, size: tuple[int, int]
) -> None:
    layer = LipschitzConv2d(channels, channels, kernel, size, 0.9)
    with torch.no_grad():
        layer.weight.mul_(5)
    layer.eval().settle()
    assert 0.9 * (1 - 1e-6) <= layer.norm_bound() <= 0.9 * (1 + 1e-6)


def test_a_long_strip_has_no_larger_rounding_than_is_promised() -> None:
    weight = torch.randn(1, 1, 3, 1, dtype=torch.float64).expand(1, 1, 3, 3) * torch.eye(3)[1]
    norm = float(torch.fft.fft(weight[0, 0, :, 1], n=2**12).abs().amax())
    for length in (2**8, 2**17):
        assert convolution_norm_bound(weight, (length, 1), lambda _: norm) <= norm * (1 + 1e-6)


def test_bound_of_nothing_is_zero() -> None:
    nothing = torch.zeros(2, 3, 3, 3, dtype=torch.float64)
    assert convolution_norm_bound(nothing, (4, 4), lambda _: 0.0) == 0
