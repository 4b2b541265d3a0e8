"""The linear map that starts as a whitening."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.blocks import dense_logdet
from torch import Tensor
from torch.distributions import MultivariateNormal

from impflow_zoo import ImpFlow, ImpFlowTransform, TabularConfig
from impflow_zoo.transforms.base import NotFiniteError
from impflow_zoo.transforms.whitening import Whitening

CHANNELS = 5
SIZES = pytest.mark.parametrize("size", [(), (4, 6)], ids=["rows", "maps"])


def correlated(n: int, size: tuple[int, ...]) -> Tensor:
    """Rows or maps whose channels are far from uncorrelated and far from zero."""
    mixing = torch.randn(CHANNELS, CHANNELS, dtype=torch.float64)
    noise = torch.randn(n, CHANNELS, *size, dtype=torch.float64)
    return 3 + torch.einsum("ij,bj...->bi...", mixing, noise)


def make(dtype: torch.dtype = torch.float64) -> Whitening:
    """One whose every entry has moved, as training would move it."""
    transform = Whitening(CHANNELS).double().train()
    transform(correlated(40, (4, 6)))
    with torch.no_grad():
        for parameter in transform.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return transform.to(dtype).eval()


@SIZES
def test_first_batch_leaves_with_unit_covariance(size: tuple[int, ...]) -> None:
    x = correlated(200, size)
    z, _ = Whitening(CHANNELS).double().train()(x)
    channels = z.detach().transpose(0, 1).flatten(1)
    assert float(channels.mean(dim=1).abs().max()) < 1e-10
    identity = torch.eye(CHANNELS, dtype=torch.float64)
    torch.testing.assert_close(torch.cov(channels), identity, atol=5e-2, rtol=0)


@SIZES
@pytest.mark.parametrize("scale", [1e-4, 1e3, 1e30])
def test_any_scale(scale: float, size: tuple[int, ...]) -> None:
    x = correlated(200, size)
    x[:, 1] *= scale
    transform = Whitening(CHANNELS).double().train()
    z, logdet = transform(x)
    identity = torch.eye(CHANNELS, dtype=torch.float64)
    covariance = torch.cov(z.detach().transpose(0, 1).flatten(1))
    torch.testing.assert_close(covariance, identity, atol=5e-2, rtol=0)
    torch.testing.assert_close(transform.inverse(z)[0], x, rtol=1e-9, atol=1e-9)
    assert bool(logdet.isfinite().all())


FIRST_BATCHES = {
    "constant channel": torch.cat((torch.ones(9, 1), torch.randn(9, 2)), dim=1),
    "constant rows": torch.ones(9, 3),
    "equal channels": torch.randn(9, 1).expand(9, 3),
    "one row": torch.randn(1, 3),
    "fewer rows than features": torch.randn(2, 3),
    "one feature": torch.randn(9, 1),
    "one channel": torch.randn(4, 1, 3, 3),
}


@pytest.mark.parametrize("name", FIRST_BATCHES)
def test_poor_first_batches_are_no_error(name: str) -> None:
    x = FIRST_BATCHES[name].double()
    transform = Whitening(x.shape[1]).double().train()
    z, logdet = transform(x)
    assert bool(transform.initialized)
    assert bool(z.isfinite().all() and logdet.isfinite().all())
    assert float(z.detach().abs().max()) < 10
    torch.testing.assert_close(transform.inverse(z)[0], x)


def test_an_empty_first_batch_teaches_nothing() -> None:
    transform = Whitening(3).train()
    assert transform(torch.zeros(0, 3))[0].shape == (0, 3)
    assert not bool(transform.initialized)


def test_bad_rows_of_the_first_batch_are_named() -> None:
    x = torch.randn(9, 3)
    x[4] = torch.nan
    transform = Whitening(3).train()
    with pytest.raises(NotFiniteError, match="NaN or infinity in 1 of 9 .*: 4"):
        transform(x)
    assert not bool(transform.initialized)


def test_starts_once_and_only_in_training() -> None:
    transform = Whitening(CHANNELS).double().eval()
    x = correlated(40, (4, 6))
    torch.testing.assert_close(transform(x)[0], x)
    assert not bool(transform.initialized)
    first = transform.train()(x)[0]
    transform(2 * x + 1)
    torch.testing.assert_close(transform(x)[0], first, rtol=0, atol=0)


@SIZES
def test_inverse_and_logdet(size: tuple[int, ...]) -> None:
    transform, x = make(), correlated(3, size)
    z, logdet = transform(x)
    torch.testing.assert_close(logdet, dense_logdet(lambda x: transform(x)[0], x))
    back, inverse_logdet = transform.inverse(z)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(inverse_logdet, -logdet)


@SIZES
def test_single_precision(size: tuple[int, ...]) -> None:
    transform = make(torch.float32)
    x = correlated(3, size).float()
    back = transform.inverse(transform(x)[0])[0]
    torch.testing.assert_close(back, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(), (2, 2)], ids=["rows", "maps"])
def test_gradients(size: tuple[int, ...]) -> None:
    transform, x = make(), correlated(2, size).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: transform(x), x)
    assert torch.autograd.gradcheck(lambda x: transform.inverse(x), x)
    transform(x)[1].sum().backward()
    assert transform.unconstrained_upper_diag.grad is not None
    assert bool((transform.unconstrained_upper_diag.grad != 0).all())


@pytest.mark.parametrize("shape", [(2, CHANNELS - 1), (2, CHANNELS, 3), (2, CHANNELS + 1, 3, 3)])
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_other_shapes_are_refused(shape: tuple[int, ...], direction: str) -> None:
    with pytest.raises(ValueError, match=r"\[B, 5\] or \[B, 5, H, W\] is needed"):
        getattr(make(), direction)(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_other_types_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=f"type {dtype}: this transform takes torch.float64"):
        make()(torch.zeros(2, CHANNELS, dtype=dtype))


def test_a_model_starts_as_the_gaussian_of_its_rows(tmp_path: Path) -> None:
    """Whitened tables with blocks that do nothing have the density of a fitted Gaussian."""
    x = correlated(400, ())
    model = ImpFlow(TabularConfig(features=CHANNELS, blocks=1, hidden_features=(4,), whiten=True))
    model = model.double()
    with torch.no_grad():
        for block in model.modules():
            if isinstance(block, ImpFlowTransform):
                for parameter in block.parameters():
                    parameter.zero_()
    model.fit_preprocessing(x)
    model.train().log_prob(x)
    gaussian = MultivariateNormal(x.mean(dim=0), torch.cov(x.T, correction=0))
    mean = float(gaussian.log_prob(x).mean())
    assert model.eval().log_prob(x).mean().item() == pytest.approx(mean, abs=1e-2)
    model.save_pretrained(tmp_path)
    loaded = ImpFlow.from_pretrained(tmp_path, verify=True).double()
    torch.testing.assert_close(loaded.log_prob(x), model.log_prob(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.decode(model.encode(x)), x)


def test_autocast_rounds_no_inverse() -> None:
    transform, z = make(torch.float32), torch.randn(20, CHANNELS)
    x, _ = transform.inverse(z)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(transform.inverse(z)[0], x)
