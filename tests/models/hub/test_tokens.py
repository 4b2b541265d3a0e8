"""Access tokens stay out of messages, logs and pickles."""

from __future__ import annotations

import pytest
from support.by_id import REPO, load
from support.client_process import Failure
from support.loopback_hub import TOKEN, Fault

from impflow_zoo.models.folder import ModelFolder


@pytest.mark.parametrize("token", [TOKEN, TOKEN + "\x01", TOKEN + "é"], ids=["", "control", "é"])
def test_tokens_never_show(hub, online, models, tmp_path, token):
    hub.add(REPO, models[0])
    hub.faults["GET", "/revision/main"] = Fault(status=500)
    result = online(load, str(tmp_path), token=token)
    assert isinstance(result, Failure)
    assert "hf_" not in result.text
    hub.faults.clear()
    assert "hf_" not in str(online(_pickled, str(tmp_path), token))


def test_tokens_are_not_logged(hub, online, models, tmp_path):
    hub.add("zoo/private", models[0], private=True)
    logged = online(_logged, str(tmp_path), "zoo/private", TOKEN)
    assert "model.safetensors" in logged
    assert TOKEN not in logged


def _logged(cache: str, model: str, token: str) -> str:
    """Everything that any library logs while it loads."""
    import io
    import logging

    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict]
    levels = [(logger, logger.level) for logger in (logging.root, *loggers)]
    for logger, _ in levels:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    try:
        load(cache, model, token=token)
    finally:
        for logger, level in levels:
            logger.removeHandler(handler)
            logger.setLevel(level)
    return stream.getvalue()


def _pickled(cache: str, token: str) -> str:
    import pickle

    files = ModelFolder.open(REPO, cache_dir=cache, token=token)
    return f"{pickle.dumps(files)!r}{files!r}{vars(pickle.loads(pickle.dumps(files)))}"
