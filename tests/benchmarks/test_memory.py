"""Memory of a training step of images does not depend on terms of a series or steps of a root."""

from __future__ import annotations

import memory
import pytest
import torch
from support.image_models import draw, make

from impflow_zoo import ImpFlow


def kept(kind: str, n: int) -> tuple[int, int]:
    """Entries of tensors that a step keeps for its backward pass: in all, and in the largest."""
    torch.manual_seed(0)
    model = make("plain", ImpFlow, size=8)
    sizes: list[int] = []
    hooks = torch.autograd.graph.saved_tensors_hooks(
        lambda t: sizes.append(t.numel()) or t, lambda t: t
    )
    with hooks:
        memory.step(model, draw(model), kind, n)
    return sum(sizes), max(sizes)


@pytest.mark.filterwarnings("ignore:.*did not converge")  # to a tolerance of zero
@pytest.mark.parametrize("kind", ["terms", "products", "steps"])
def test_nothing_more_is_kept_for_the_backward_pass(kind):
    counts = (3, 6, 12) if kind == "products" else memory.COUNTS
    assert len({kept(kind, n) for n in counts}) == 1


def test_graphs_of_terms_would_be_seen():
    few, many = kept("graphs", 5)[0], kept("graphs", 20)[0]
    assert many > 2 * few


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["terms", "steps"])
def test_the_peak_of_a_process_does_not_grow(kind):
    """By less than the graph of one term: measured as 21 MB, of which 75 more would be kept."""
    few, some, many = (memory.in_child(kind, n) for n in memory.COUNTS)
    assert max(few, some, many) - min(few, some, many) < 20


@pytest.mark.slow
def test_the_peak_would_show_graphs():
    assert memory.in_child("graphs", 20) - memory.in_child("graphs", 5) > 10 * 20
