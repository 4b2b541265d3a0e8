"""A `config.json` that we did not write makes a model, or ends in the library's own error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.hostile import FEW, MANY, VALUES, changed, loads_or_says_why

from impflow_zoo import ResFlow, TabularConfig
from impflow_zoo.models.folder import CONFIG
from impflow_zoo.models.image_config import ImageConfig
from impflow_zoo.published import PublishedImageConfig


def check_config(files: dict[str, bytes], folder: Path, data: st.DataObject) -> None:
    config = data.draw(changed(files[CONFIG]))
    loads_or_says_why(folder, {**files, CONFIG: config})


@given(data=st.data())
@FEW
def test_configs(files, image_files, tmp_path, data):
    check_config(data.draw(st.sampled_from([files, image_files])), tmp_path, data)


@pytest.mark.slow
@given(data=st.data())
@MANY
def test_many_configs(files, image_files, tmp_path, data):
    check_config(data.draw(st.sampled_from([files, image_files])), tmp_path, data)


@given(text=st.one_of(st.binary(max_size=50), VALUES.map(lambda v: json.dumps(v).encode())))
@FEW
def test_what_is_no_config_at_all(files, tmp_path, text):
    assert not loads_or_says_why(tmp_path, {**files, CONFIG: text})


def _nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"features": 2', '"features": 1000000000'),
        ('"features": 2', '"features": 3000000'),
        ('"blocks": 1', '"blocks": 1000000000000'),
        ('"hidden_features": [8, 8]', f'"hidden_features": [{", ".join(["8"] * 20000)}]'),
        ('"hidden_features": [8, 8]', '"hidden_features": [8, 4000000000]'),
        ('"hidden_features": [8, 8]', f'"hidden_features": {_nested(900)}'),
        ('"hidden_features": [8, 8]', f'"hidden_features": {_nested(100000)}'),
        ('"context_features": 1', '"context_features": 1000000000000'),
        ('"lipschitz": 0.8', '"lipschitz": NaN'),
        ('"lipschitz": 0.8', '"lipschitz": 1e999'),
        ('"lipschitz": 0.8', f'"lipschitz": {"9" * 400}'),
        ('"seed": 0', f'"seed": {"9" * 400}'),
        ('"seed": 0', f'"seed": {"9" * 9000}'),
        ('"activation": "halfsin"', '"activation": "__import__"'),
        ('"kind": "tabular"', '"kind": "image"'),
        ('"model": "ImpFlow"', '"model": "torch.nn.Linear"'),
    ],
)
def test_absurd_configs_are_refused(files, tmp_path, old, new):
    text = files[CONFIG].decode()
    assert old in text
    config = text.replace(old, new, 1).encode()
    assert not loads_or_says_why(tmp_path, {**files, CONFIG: config})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"image_size": [2, 2]', '"image_size": [1048576, 1048576]'),
        ('"blocks": [1, 1]', '"blocks": [1, 1000000000]'),
        ('"width": 2', '"width": 2000000000'),
        ('"kernels": [3, 1, 3]', '"kernels": [3, 99999999, 3]'),
        ('"kernels": [3, 1, 3]', '"kernels": [3, 1, 99999999]'),
        ('"squeeze_first": false', '"fc_blocks": 1000000000'),
    ],
)
def test_absurd_image_configs_are_refused(image_files, tmp_path, old, new):
    text = image_files[CONFIG].decode()
    assert old in text
    config = text.replace(old, new, 1).encode()
    assert not loads_or_says_why(tmp_path, {**image_files, CONFIG: config})


@pytest.mark.parametrize(
    "config",
    [
        TabularConfig(features=3, blocks=2, hidden_features=(5, 7), context_features=2),
        TabularConfig(features=3, blocks=1, hidden_features=()),
        TabularConfig(
            features=3, blocks=1, hidden_features=(3,), context_features=2, embedding_net=(50, 4)
        ),
        TabularConfig(features=40, blocks=1, hidden_features=(1,), whiten=True),
        ImageConfig(image_size=(4, 4), blocks=(1, 2), width=4),
        ImageConfig(image_size=(4, 4), blocks=(1, 1, 1), width=1, squeeze_first=False, whiten=True),
        ImageConfig(image_size=(4, 4), blocks=(1, 1), width=4, factor_out=True, net="dense"),
        ImageConfig(image_size=(1, 1), channels=1, blocks=(1,), kernels=(1,), actnorm=False),
        ImageConfig(image_size=(2, 2), blocks=(1,), kernels=(3,), net="dense", actnorm=False),
        PublishedImageConfig(image_size=(2, 2), blocks=(1,), width=2, fc_blocks=1, fc_hidden=(3,)),
        PublishedImageConfig(image_size=(2, 2), blocks=(1,), width=2, norm="ffff"),
    ],
)
def test_no_model_is_smaller_than_its_least_size(config):
    """Else a model that was saved could not be loaded."""
    size = sum(t.numel() for t in ResFlow(config).state_dict().values())
    assert 0.1 * size < config.least_size <= size
