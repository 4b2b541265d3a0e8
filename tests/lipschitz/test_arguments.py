"""Mistakes in building nets: one clear line for each, before torch or Python say something else."""

from __future__ import annotations

import numpy as np
import pytest

from impflow_zoo import LipschitzConvNet, LipschitzDenseNet, LipschitzMLP
from impflow_zoo.lipschitz.published_nets import PublishedMLP

MISTAKES = {
    "lipschitz-text": (lambda: LipschitzMLP(2, lipschitz="0.9"), "lipschitz='0.9': a positive"),
    "features-half": (lambda: LipschitzMLP(2.5), "features=2.5, .* positive sizes are needed"),
    "context-negative": (
        lambda: LipschitzMLP(2, context_features=-1),
        "context_features=-1: a size or None is needed",
    ),
    "width": (lambda: LipschitzConvNet(width=0), "width=0, .*: positive sizes are needed"),
    "growth": (lambda: LipschitzDenseNet(growth=0), "growth=0, kernel=3: positive sizes are"),
    "image-width-half": (lambda: LipschitzConvNet(width=2.5), "width=2.5, .*: positive sizes are"),
    "image-channels-text": (lambda: LipschitzConvNet("3"), "channels='3', .*: positive sizes are"),
    "kernels-one-size": (lambda: LipschitzConvNet(kernels=3), r"kernels=3: .* as \(3, 1\)"),
    "image-context-negative": (
        lambda: LipschitzDenseNet(context_features=-1),
        "context_features=-1: a size or None is needed",
    ),
    "depth-half": (lambda: LipschitzDenseNet(depth=1.5), "depth=1.5: a number of layers is needed"),
    "kernels-one-number": (
        lambda: LipschitzConvNet(kernels=np.int64(3)),
        r"kernels=3: .* as \(3, 1\)",
    ),
    "mlp-of-nothing": (lambda: LipschitzMLP(0), r"features=0, .*positive sizes are needed"),
    "mlp-layer-of-nothing": (lambda: LipschitzMLP(2, (0,)), r"hidden_features=\(0,\): positive"),
    "mlp-one-size": (lambda: LipschitzMLP(2, 128), r"hidden_features=128: .* as \(64, 64\)"),
    "mlp-no-sizes": (lambda: LipschitzMLP(2, None), r"hidden_features=None: sizes are needed"),
    "images-one-size": (lambda: LipschitzConvNet(3, 32), "image_size=32: height and width"),
    "maxmin-hidden": (lambda: LipschitzMLP(2, (8, 7), "maxmin"), "'maxmin' needs .*even.*not 7"),
    "maxmin-first": (
        lambda: PublishedMLP(3, (8,), "maxmin", preactivation=True),
        "'maxmin' needs .*not 3",
    ),
    "maxmin-width": (lambda: LipschitzConvNet(width=7, activation="maxmin"), "'maxmin' .*not 7"),
    "maxmin-channels": (
        lambda: LipschitzConvNet(3, activation="maxmin", preactivation=True),
        "'maxmin' .*not 3",
    ),
    "maxmin-growth": (lambda: LipschitzDenseNet(growth=3, activation="maxmin"), "'maxmin'.*not 3"),
    "images-of-nothing": (lambda: LipschitzConvNet(0), "channels=0, .*: positive sizes are needed"),
}


@pytest.mark.parametrize(("build", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named_in_one_line(build, message):
    with pytest.raises(ValueError, match=message) as caught:
        build()
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 250
