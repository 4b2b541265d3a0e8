"""Models that move to normflows, and residual blocks that come from there."""

from __future__ import annotations

import normflows as nf
import pytest
import torch
from nflows.transforms import RandomPermutation
from support.blocks import UserNet, dense_logdet
from support.dealt import crossed

from impflow_zoo import (
    ImageConfig,
    ImpFlow,
    ResFlow,
    TabularConfig,
)
from impflow_zoo.normflows import (
    from_residual,
    from_transform,
)

MODELS = {"ImpFlow": ImpFlow, "ResFlow": ResFlow}
TABLE_CHANGES = {
    "unconditional": {},
    "conditional": {"context_features": 2},
    "embedded": {"context_features": 2, "embedding_net": (5, 4)},
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("change", TABLE_CHANGES.values(), ids=TABLE_CHANGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_models_convert(kind, change, dtype):
    config = TabularConfig(3, blocks=2, hidden_features=(8, 8), **change)
    model = MODELS[kind](config).to(dtype)
    x = torch.randn(16, 3, dtype=dtype) * 3 + 1
    rows = (torch.randn(16, 2, dtype=dtype) * 5 + 2,) if change else ()
    model.fit_preprocessing(x, *rows)
    model.log_prob(x, *rows)  # starts the ActNorm
    model.eval()
    theirs = model.to_normflows()
    torch.testing.assert_close(
        theirs.log_prob(x, *rows), model.log_prob(x, *rows), rtol=0, atol=1e-6
    )
    samples, log_q = theirs.sample(16, *rows)
    torch.testing.assert_close(model.log_prob(samples, *rows), log_q, rtol=0, atol=1e-4)
    assert not theirs.training
    theirs.train()
    assert not any(module.training for module in model.modules())
    assert {p.data_ptr() for p in theirs.parameters()}.isdisjoint(
        p.data_ptr() for p in model.parameters()
    )


IMAGE_CHANGES = {
    "plain": {},
    "factor-out": {"factor_out": True},
    "conditional": {"context_features": 2},
    "labels": {"context_columns": ("label",), "classes": 3},
}


@pytest.mark.parametrize(("change", "kind"), crossed(IMAGE_CHANGES, {k: k for k in MODELS}))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_image_models_convert(kind, change, dtype):
    """Densities of many features are differences of large numbers: sums go in the same order."""
    config = ImageConfig(channels=1, image_size=(8, 8), blocks=(1, 1), width=8, **change)
    model = MODELS[kind](config).to(dtype)
    x = torch.rand(3, 1, 8, 8, dtype=dtype)
    rows = (torch.randn(3, 2, dtype=dtype),) if "context_features" in change else ()
    rows = (torch.tensor([[0], [2], [1]]).to(dtype),) if "classes" in change else rows
    model.log_prob(x, *rows)  # starts the ActNorm
    model.eval()
    theirs = model.to_normflows()
    with torch.no_grad():
        expected = model.log_prob(x, *rows)
        torch.testing.assert_close(theirs.log_prob(x, *rows), expected, rtol=0, atol=1e-6)
        samples, log_q = theirs.sample(3, *rows)
        again = model.flow.log_prob(samples, *rows)  # they leave [0, 1] by a little
    torch.testing.assert_close(again, log_q, rtol=0, atol=1e-2 if dtype == torch.float32 else 1e-8)


@pytest.fixture(scope="module")
def pretrained() -> ImpFlow:
    return ImpFlow.from_pretrained("hub_configs/impflow-power-plant")


def test_a_pretrained_model_converts(pretrained):
    x = pretrained.sample(32)
    ours, theirs = pretrained.log_prob(x), pretrained.to_normflows().log_prob(x)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-6)


def trained_residual(*, reverse: bool = True, updates: bool = True, dtype=torch.float32):
    """A Residual of normflows after a few large steps, as its users train it."""
    net = nf.nets.LipschitzMLP([2, 16, 16, 2], init_zeros=False)
    residual = nf.flows.Residual(net, reverse=reverse, reduce_memory=False).to(dtype)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    for _ in range(10):
        optimizer.zero_grad()
        x = torch.randn(64, 2, dtype=dtype)
        (net(x) - 3 * x).pow(2).mean().backward()
        optimizer.step()
        if updates:
            nf.utils.update_lipschitz(residual, 5)
    return residual.eval()


@pytest.mark.parametrize("reverse", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_a_trained_residual_converts(reverse, dtype):
    """In two features normflows' own log-determinant is exact in evaluation."""
    residual = trained_residual(reverse=reverse, dtype=dtype)
    layer = from_residual(residual)
    x = torch.randn(64, 2, dtype=dtype)
    explicit = "inverse" if reverse else "forward"
    with torch.no_grad():
        expected, _ = getattr(residual, explicit)(x.clone())
        value, logdet = getattr(layer, explicit)(x)
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)
        assert (value - x).abs().max() > 0.1
        implicit = "forward" if reverse else "inverse"
        root, back = getattr(layer, implicit)(value)
    torch.testing.assert_close(root, x, rtol=0, atol=1e-4 if dtype == torch.float32 else 1e-12)
    torch.testing.assert_close(back, -logdet, rtol=0, atol=1e-4)
    theirs = getattr(residual, explicit)(x.clone())[1].detach()
    torch.testing.assert_close(logdet, theirs, rtol=0, atol=1e-5)


def test_a_converted_residual_is_deterministic_and_stays_bounded():
    layer = from_residual(trained_residual())
    x = torch.randn(8, 2)
    assert torch.equal(layer.inverse(x)[1], layer.inverse(x)[1])
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    layer.train()
    for _ in range(3):
        optimizer.zero_grad()
        layer.inverse(x)[0].sum().backward()
        optimizer.step()
    assert layer.eval().transform.net.certificate() < 1


def test_other_nets_of_a_residual_are_copied():
    net = UserNet(3)
    layer = from_residual(nf.flows.Residual(net).eval())
    x = torch.randn(4, 3)
    assert torch.equal(layer.inverse(x)[0], x + net(x))
    assert layer.transform.net is not net


@pytest.mark.parametrize("reverse", [True, False])
def test_a_convolutional_residual_converts(reverse):
    net = nf.nets.LipschitzCNN([2, 6, 4, 2], [3, 1, 3], init_zeros=False)
    residual = nf.flows.Residual(net, reverse=reverse).eval()
    x = torch.randn(3, 2, 5, 4)
    with torch.no_grad():
        net(x)  # its norms start at the first image
        for layer in net.net[1::2]:
            layer.weight.mul_(3)
        nf.utils.update_lipschitz(net, 50)
        expected = x + net(x)
        layer = from_residual(residual)
        explicit, implicit = (layer.inverse, layer.forward)[:: 1 if reverse else -1]
        value, logdet = explicit(x)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)
    assert (value - x).abs().max() > 0.01
    assert torch.equal(explicit(x)[1], logdet)
    torch.testing.assert_close(implicit(value)[0], x, rtol=0, atol=1e-4)
    dense = dense_logdet(lambda x: x + net(x), x)
    torch.testing.assert_close(logdet, dense, rtol=0, atol=1e-4)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    layer.train()
    for _ in range(3):
        optimizer.zero_grad()
        explicit(x)[0].sum().backward()
        optimizer.step()
    assert layer.eval().transform.net.certificate() < 1


def test_a_net_that_is_no_contraction_is_refused():
    residual = trained_residual(updates=False)
    with pytest.raises(ValueError, match=r"up to \d.*less than 1: run normflows.utils") as caught:
        from_residual(residual)
    assert "\n" not in str(caught.value)
    nf.utils.update_lipschitz(residual, 200)
    assert from_residual(residual).transform.net.certificate() <= 0.97**3 * (1 + 1e-5)


def test_a_net_that_holds_nan_is_refused():
    residual = trained_residual()
    with torch.no_grad():
        residual.iresblock.nnet.net[1].weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        from_residual(residual)


def test_a_transform_without_parameters():
    flow = from_transform(RandomPermutation(3), (3,))
    x = torch.randn(4, 3)
    expected = torch.distributions.Normal(0, 1).log_prob(x).sum(1)
    torch.testing.assert_close(flow.log_prob(x), expected)
