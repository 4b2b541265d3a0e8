"""Every combination of settings that a checkpoint may have gives what its definition says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import write
from support.command_line import conversion
from support.dealt import crossed
from support.published_models import ACTIVATIONS, IMAGE, TOY, Published

from conversion.convert import convert
from conversion.convert import write as write_model
from impflow_zoo import create_model

NORMS = ("222", "111", "fff", "121", "12f", "22f", "1f1", "2f2", "f22", "212", "f2f")
BLOCKS = {"residual": False, "implicit": True}

ROWS: dict[str, dict[str, Any]] = {
    **{f"act-{name}": {"act": name, "dims": "8-4", "vnorms": "2222"} for name in ACTIVATIONS},
    **{f"vnorms-{norms}": {"vnorms": norms} for norms in NORMS},
    "learned orders": {"learn_p": True},
    "actnorm": {"actnorm": True, "dims": "6-5-4", "vnorms": "22222"},
    "poisson": {"n_dist": "poisson"},
}
IMAGES: dict[str, dict[str, Any]] = {
    "plain": {},
    "no actnorm": {"actnorm": False},
    "no preact": {"preact": False},
    "fc end": {"fc_end": True},
    "fc end, no preact": {"fc_end": True, "preact": False, "actnorm": False},
    "factor out": {"factor_out": True},
    "factor out, fc end": {"factor_out": True, "fc_end": True},
    "squeeze first": {"squeeze_first": True},
    "squeeze first, factor out": {"squeeze_first": True, "factor_out": True},
    "one scale": {"nblocks": "2"},
    "two layers": {"kernels": "3-3", "vnorms": "222", "fc_end": True},
    "5x5": {"kernels": "5-1-1", "act": "elu"},
    "geometric": {"n_dist": "geometric", "act": "sin"},
    "learned orders": {"learn_p": True, "act": "tanh"},
    "norms": {"vnorms": "12f2", "act": "elu"},
    "infinity": {"vnorms": "ffff", "act": "softplus"},
    "ones": {"vnorms": "1111", "act": "relu"},
}


SELDOM = {"fc end, no preact", "factor out, fc end", "squeeze first, factor out", "ones"}


def agrees(model: Published, folder: Path, x: torch.Tensor) -> None:
    """Convert through a file and a folder, and compare."""
    path = write(folder / "checkpoint.pth", model.args, model.state)
    write_model(convert(path), folder / "out")
    loaded = create_model(folder / "out", logdet="exact").double()
    z, logdet = model(x)
    with torch.no_grad():
        found, found_logdet = loaded.transform(x)
    torch.testing.assert_close(found, z, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(found_logdet, logdet, atol=1e-8, rtol=1e-9)


@pytest.mark.parametrize(("change", "implicit"), crossed(ROWS, BLOCKS))
def test_rows(change, implicit, tmp_path):
    args = {**TOY, **change, "arch": "implicit" if implicit else "iresnet"}
    model = Published(args, implicit=implicit, shape=(2,))
    agrees(model, tmp_path, torch.randn(4, 2, dtype=torch.float64))


@pytest.mark.parametrize(("change", "implicit"), crossed(IMAGES, BLOCKS, SELDOM))
def test_images(change, implicit, tmp_path):
    size = 16 if change.get("squeeze_first") else 8
    args = {**IMAGE, **change, "imagesize": size}
    model = Published(args, implicit=implicit, shape=(1, size, size))
    agrees(model, tmp_path, torch.rand(2, 1, size, size, dtype=torch.float64))


def test_settings_can_be_overridden_on_the_command_line(tmp_path):
    model = Published(TOY, implicit=False, shape=(2,))
    wrong = {**TOY, "coeff": 0.5, "dims": "16", "act": "sin", "nblocks": 3, "vnorms": "2222"}
    path = write(tmp_path / "checkpoint.pth", wrong, model.state)
    words = ("coeff=0.9", "dims=8", "act=swish", "nblocks=2", "vnorms=222")
    settings = [w for word in words for w in ("--set", word)]
    assert conversion(path, tmp_path / "out", *settings).code == 0
    x = torch.randn(4, 2, dtype=torch.float64)
    found = create_model(tmp_path / "out").double().encode(x)
    torch.testing.assert_close(found, model(x)[0])


def test_image_settings_can_be_overridden_on_the_command_line(tmp_path):
    model = Published(IMAGE, implicit=True, shape=(1, 8, 8))
    wrong = {**IMAGE, "nblocks": "2-2", "kernels": "3-3", "data": "mnist", "preact": False}
    path = write(tmp_path / "checkpoint.pth", wrong, model.state)
    words = ("nblocks=1-1", "kernels=3-1-3", "data=cifar10", "preact=True")
    settings = [w for word in words for w in ("--set", word)]
    assert conversion(path, tmp_path / "out", *settings).code == 0
    x = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    found = create_model(tmp_path / "out").double().encode(x)
    torch.testing.assert_close(found, model(x)[0])
