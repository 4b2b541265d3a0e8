"""Models under `torch.func`, and with the hooks of tools that summarise modules."""

from __future__ import annotations

import copy

import pytest
import torch
from support.small_models import make, rows
from torch import Tensor
from torch.func import functional_call, grad, jvp, stack_module_state, vmap
from torch.testing import assert_close

from impflow_zoo import ImpFlow, LogDet, MonotoneFlow, ResFlow
from impflow_zoo.lipschitz.norms import LipschitzLayer
from impflow_zoo.models.flow import FlowModel

every_kind = pytest.mark.parametrize("kind", [ResFlow, ImpFlow, MonotoneFlow])
every_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def made(kind: type[FlowModel], *, training: bool) -> FlowModel:
    return make(kind, blocks=2, whiten=True, net="spectral" if training else "sandwich").train(
        training
    )


def used(kind: type[FlowModel], x: Tensor, *, training: bool) -> FlowModel:
    """A model whose layers have started from a first batch."""
    model = made(kind, training=True)
    model.log_prob(x)
    return model.train(training)


@pytest.mark.parametrize("settings", [{}, {"logdet": LogDet("truncated")}], ids=["roots", "series"])
def test_what_no_program_can_hold_is_not_exported(settings: dict[str, LogDet]) -> None:
    kind = ResFlow if settings else ImpFlow
    with pytest.raises(RuntimeError, match="torch.export .* no roots and no series"):
        torch.export.export(make(kind, blocks=1, **settings), (rows(4),))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@every_mode
@every_kind
def test_log_densities_are_transformed(kind: type[FlowModel], training: bool) -> None:
    x = rows(4)
    models = [used(kind, x, training=training) for _ in range(2)]
    model, parameters = models[0], dict(models[0].named_parameters())
    expected = model(x)
    by_parameters = torch.autograd.grad(expected.sum(), [*parameters.values()])
    state = {name: p.detach() for name, p in parameters.items()}
    before = copy.deepcopy(model.state_dict())

    def loss(state: dict[str, Tensor], x: Tensor = x) -> Tensor:
        return functional_call(model, state, x).sum()

    close = {"rtol": 1e-8, "atol": 1e-8}
    assert_close([*grad(loss)(state).values()], [*by_parameters], **close)
    assert_close(vmap(lambda row: model(row[None])[0])(x), expected, **close)
    _, slope = jvp(lambda x: model(x).sum(), (x,), (torch.ones_like(x),))
    assert_close(slope, grad(loss, argnums=1)(state, x).sum(), **close)
    assert_close(model.state_dict(), before)
    stacked = stack_module_state([*models])
    together = vmap(lambda *state: functional_call(model, state, x))(*stacked)
    assert_close(together, torch.stack([one(x) for one in models]), **close)


@every_kind
def test_layers_that_wait_for_a_first_batch_say_so(kind: type[FlowModel]) -> None:
    model, x = made(kind, training=True), rows(4)
    with pytest.raises(RuntimeError, match="Whitening starts from a first batch"):
        grad(lambda x: model(x).sum())(x)


@every_mode
@every_kind
def test_hooks_on_all_modules_see_what_these_answer(kind: type[FlowModel], training: bool) -> None:
    x = rows(4)
    model = used(kind, x, training=training)
    expected = model(x)
    shapes: dict[str, torch.Size] = {}

    def note(name: str, answer: Tensor | tuple[Tensor, ...]) -> None:
        shapes[name] = (answer if isinstance(answer, Tensor) else answer[0]).shape

    for name, module in model.named_modules():
        module.register_forward_hook(lambda _m, _i, answer, name=name: note(name, answer))
    assert_close(model(x), expected)
    assert shapes[""] == (4,)
    layers = [name for name, m in model.named_modules() if isinstance(m, LipschitzLayer)]
    assert layers
    assert all(len(shapes[name]) == 2 for name in layers)
