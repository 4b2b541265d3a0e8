"""The linear map that starts as a whitening."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from blocks import dense_logdet
from torch import Tensor
from torch.distributions import MultivariateNormal

from impflow_zoo import ImpFlow, ImpFlowTransform, TabularConfig
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


def test_a_channel_that_never_varies_is_no_error() -> None:
    x = correlated(40, (4, 6))
    x[:, 2] = 1.0
    z, logdet = Whitening(CHANNELS).double().train()(x)
    assert bool(z.isfinite().all() and logdet.isfinite().all())


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
    assert float(transform.unconstrained_upper_diag.grad.abs().min()) > 0


@pytest.mark.parametrize("shape", [(2, CHANNELS - 1), (2, CHANNELS, 3), (2, CHANNELS + 1, 3, 3)])
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_other_shapes_are_refused(shape: tuple[int, ...], direction: str) -> None:
    with pytest.raises(ValueError, match=r"\[B, 5\] or \[B, 5, H, W\] is needed"):
        getattr(make(), direction)(torch.zeros(shape, dtype=torch.float64))


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
