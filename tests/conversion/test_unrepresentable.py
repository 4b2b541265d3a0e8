"""Checkpoints of models that cannot be represented here, or whose weights are damaged: by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.checkpoints import read_fixture, write
from support.command_line import conversion


def nested(depth: int = 60) -> Any:
    """A value of `depth` tuples, whose text would be 2^depth long."""
    value: Any = ("swish",)
    for _ in range(depth):
        value = (value, value)
    return value


SETTINGS = {
    "coupling": ({"arch": "realnvp"}, "arch='realnvp'"),
    "batch norm": ({"batchnorm": True}, "batchnorm=True"),
    "no contraction": ({"act": "selu"}, "act='selu'"),
    "pairs": ({"act": "maxmin"}, "act='maxmin'"),
    "coefficient of one": ({"coeff": 1.0}, "coeff=1.0"),
    "too few norms": ({"vnorms": "22"}, "vnorms"),
    "unknown norms": ({"vnorms": "2232"}, "norm '2232'"),
    "learned norms": ({"vnorms": "222p"}, "vnorms='222p'"),
    "other widths": ({"dims": "64-32"}, "correct dims"),
    "other depth": ({"dims": "64-64-64", "vnorms": "22222"}, "dims"),
    "more blocks": ({"nblocks": 7}, "correct nblocks"),
    "fewer blocks": ({"nblocks": 5}, "correct nblocks"),
    "far more blocks": ({"nblocks": 900}, "correct dims, idim, nblocks"),
    "blocks without end": ({"nblocks": 10**8}, "blocks=100000000: at most 1,000"),
    "no ActNorm": ({"actnorm": False}, "correct nblocks, actnorm"),
    "other activation": ({"act": "sin"}, "nnet.0.beta has no place"),
    "other norms": ({"vnorms": "2222"}, "nothing in the checkpoint for"),
    "number without end": ({"coeff": 1e999}, "'coeff' is inf"),
    "widths without end": ({"dims": "9" * 400}, "dims="),
    "activation without end": ({"act": nested()}, "'act' is ((("),
    "norms without end": ({"vnorms": nested()}, "'vnorms' is ((("),
    "widths that are nested": ({"dims": nested()}, "'dims' is ((("),
    "list of activations": ({"act": ["swish"]}, "'act' is ['swish']"),
    "no number": ({"nblocks": "many"}, "nblocks='many'"),
}


@pytest.mark.parametrize(("change", "message"), SETTINGS.values(), ids=SETTINGS)
def test_what_cannot_be_represented_is_refused_by_name(change, message, tmp_path):
    args, state, _, _ = read_fixture("toy_resflow")
    path = write(tmp_path / "checkpoint.pth", {**args, **change}, state)
    refused = conversion(path, tmp_path / "out")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert message in refused.err
    assert not (tmp_path / "out").exists()


IMAGE_SETTINGS = {
    "fc": (True, "fc=True"),
    "fc_actnorm": (True, "fc_actnorm=True"),
    "quadratic": (True, "quadratic=True"),
    "padding": (3, "padding=3"),
    "task": ("hybrid", "task='hybrid'"),
    "block": ("coupling", "block='coupling'"),
    "first_resblock": (False, "first_resblock=False"),
    "kernels": ("3-2-3", "kernels=(3, 2, 3)"),
    "imagesize": (10, "correct"),
    "factor_out": (True, "correct"),
    "fc_end": (False, "correct"),
    "preact": (False, "correct"),
}


@pytest.mark.parametrize("name", IMAGE_SETTINGS)
def test_what_an_image_model_cannot_have_is_refused_by_name(name, tmp_path):
    value, message = IMAGE_SETTINGS[name]
    args, state, _, _ = read_fixture("img_resflow")
    path = write(tmp_path / "checkpoint.pth", {**args, name: value}, state)
    refused = conversion(path, tmp_path / "out")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert message in refused.err


DAMAGE = {
    "unknown layer": (
        lambda s: s.update({"chain.1.logs": torch.ones(1)}),
        "chain.1.logs belongs to no",
    ),
    "unknown key": (lambda s: s.update({"net.w": torch.ones(1)}), "net.w belongs to no"),
    "a key twice": (
        lambda s: s.update({"chain.01.nnet.1.weight": s["chain.1.nnet.1.weight"]}),
        "are for one tensor",
    ),
    "a prefix on one of two": (
        lambda s: s.update({"module.chain.0.bias": s["chain.0.bias"]}),
        "two tensors have one name",
    ),
    "missing vector": (lambda s: s.pop("chain.1.nnet.1.u"), "nothing in the checkpoint for"),
    "missing layer": (
        lambda s: [s.pop(k) for k in list(s) if k.startswith("chain.1.nnet.3.")],
        "nothing in the checkpoint for",
    ),
    "missing last layers": (
        lambda s: [s.pop(k) for k in list(s) if k.startswith("chain.11.nnet.5.")],
        "nothing in the checkpoint for",
    ),
    "NaN": (lambda s: s["chain.1.nnet.1.weight"].fill_(torch.nan), "holds NaN or infinity"),
    "shape": (lambda s: s.update({"chain.0.bias": torch.ones(3)}), "has shape (3,)"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_weights_are_refused(damage, message, tmp_path):
    args, state, _, _ = read_fixture("toy_resflow")
    damage(state)
    path = write(tmp_path / "checkpoint.pth", args, state)
    refused = conversion(path, tmp_path / "out")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert message in refused.err
