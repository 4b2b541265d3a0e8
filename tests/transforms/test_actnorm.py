"""ActNorm: what the first batch does to it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.distributed as distributed
from nflows.transforms import ActNorm as Published
from torch.nn.parallel import DistributedDataParallel

from impflow_zoo import ImpFlow, TabularConfig
from impflow_zoo.models.published.build import CentredActNorm
from impflow_zoo.transforms.actnorm import ActNorm
from impflow_zoo.transforms.base import NotFiniteError

every_form = pytest.mark.parametrize("form", [ActNorm, CentredActNorm])


@pytest.mark.parametrize("size", [(), (4, 5)], ids=["rows", "maps"])
def test_it_is_that_of_nflows(size):
    x = 3 + 2 * torch.randn(20, 3, *size).double()
    ours, theirs = ActNorm(3).double(), Published(3).double()
    torch.testing.assert_close(ours(x), theirs(x))


@every_form
@pytest.mark.parametrize("rows", [1, 2, 30])
def test_a_column_that_is_constant_keeps_its_scale(form, rows):
    x = torch.randn(rows, 3).double()
    x[:, 1] = 0.1  # whose mean over 30 rows is another number
    layer = form(3).double()
    z, logabsdet = layer(x)
    torch.testing.assert_close(z.mean(dim=0), torch.zeros(3).double(), rtol=0, atol=1e-12)
    assert layer.scale[1].item() == 1.0
    assert bool(logabsdet.isfinite().all())
    torch.testing.assert_close(layer.inverse(z)[0], x)


@every_form
def test_a_batch_without_rows_sets_nothing(form):
    layer = form(3).double()
    layer(torch.zeros(0, 3).double())
    assert not layer.initialized
    x = 5 + torch.randn(30, 3).double()
    assert layer(x)[0].mean().abs().item() < 1e-12


@every_form
def test_a_first_batch_that_is_no_numbers_is_refused(form):
    layer = form(3)
    with pytest.raises(NotFiniteError, match="NaN or infinity in 1 of 2 .*: 1"):
        layer(torch.tensor([[0.0, 1.0, 2.0], [0.0, math.nan, 2.0]]))
    assert not layer.initialized


@pytest.mark.parametrize("first", [0, 1])
def test_a_model_survives_a_small_first_batch(first):
    model = ImpFlow(TabularConfig(features=2, blocks=2, hidden_features=(8,))).train()
    model.log_prob(torch.zeros(first, 2))
    assert bool(model.log_prob(torch.randn(50, 2)).isfinite().all())


@pytest.fixture
def _process_group(tmp_path):
    distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@every_form
@pytest.mark.usefixtures("_process_group")
def test_it_starts_before_processes_share_batches(form):
    """Each would start from its own part of the first batch, and train another model."""
    x = torch.randn(8, 3)
    with pytest.raises(RuntimeError, match="call the model on training rows before Distr"):
        DistributedDataParallel(form(3))(x)
    begun = form(3)
    begun(x)
    torch.testing.assert_close(DistributedDataParallel(begun)(x), begun(x))
