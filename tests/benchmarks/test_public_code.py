"""The public ImpFlow code as a side of the speed benchmark, on a made-up checkout of its layout."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases import Case, make_side
from classifier_block import Case as ClassifierCase
from counting import counting
from public_code import NoCheckoutError, classifier_block, public_side, read_code
from support.public_checkout import made_up

CASE = Case((2,), 2, (8, 8), 5)
TABLE = Case((3,), 2, (8, 8), 5)
IMAGE = Case((1, 4, 4), 2, (3,), 2, lipschitz=0.9)


@pytest.fixture
def checkout(tmp_path):
    return made_up(tmp_path)


@pytest.mark.parametrize("case", [CASE, TABLE, IMAGE], ids=["plane", "table", "image"])
def test_it_computes_our_function_with_our_weights(checkout, case):
    case = replace(case, logdet="exact")
    ours, public = make_side("impflow", case), public_side(case, checkout)
    for task in ("log_prob", "sample"):
        ours.prepare(task)
        public.prepare(task)
        assert torch.allclose(public.run(task), ours.run(task), atol=1e-4)
    assert not public.x.requires_grad


def test_its_block_as_a_layer_computes_our_function(checkout):
    ours = ClassifierCase(channels=2, hidden=3, size=4, batch=5).block()
    theirs, after_step = classifier_block(ours, checkout, n_dist="poisson")
    x = torch.randn(5, 2, 4, 4)
    assert torch.allclose(theirs(x), ours.eval().encode(x), atol=1e-4)
    layers = [m for m in theirs.modules() if hasattr(m, "updates")]
    before = [len(layer.updates) for layer in layers]
    after_step()
    assert [len(layer.updates) for layer in layers] == [n + 1 for n in before]


def test_the_error_of_a_sample_is_told_from_exact_roots(checkout):
    public = public_side(CASE, checkout)
    assert public.sample_error(public_side(CASE, checkout, exact=True)) < 1e-5
    for block in public.modules.modules():
        if hasattr(block, "block"):
            block.block.inverse = lambda z: 1.01 * z
    error = public.sample_error(public_side(CASE, checkout, exact=True))
    assert error > 1e-3


def test_a_step_of_training_updates_every_norm_as_the_scripts_do(checkout):
    for case, norms in ((CASE, {"n_iterations": 20}), (IMAGE, {"atol": 1e-3, "rtol": 1e-3})):
        public = public_side(case, checkout)
        layers = [m for m in public.modules.modules() if hasattr(m, "updates")]
        assert len(layers) == 2 * 3 * 3  # blocks, nets and the copy of one, layers
        public.prepare("train")
        public.run("train")
        assert all(layer.updates[-1] == (True, {}) for layer in layers)
        assert all(layer.norms == norms for layer in layers)


def test_nets_are_counted_once_and_backward_passes_within_others(checkout):
    class Nested(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            with torch.enable_grad():
                torch.ones(1, requires_grad=True).sum().backward()
            return grad

    public = public_side(CASE, checkout)
    with counting(public) as counts:
        public.forward(public.x)
    assert counts.evaluations == 2 * (60 * 2 + 2 * 5)  # of each root and each row's Jacobian
    with counting(public) as counts:
        Nested.apply(torch.ones(1, requires_grad=True)).sum().backward()
    assert counts.products == len(public.nets) + 1


def test_a_folder_that_is_no_checkout_is_named(tmp_path, checkout):
    (checkout / "lib" / "layers" / "implicit_block.py").unlink()
    with pytest.raises(NoCheckoutError, match="no checkout of the public.*implicit_block"):
        read_code(checkout)
