"""A Hub that refuses, fails or sends something else: one clear line each."""

from __future__ import annotations

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from support.by_id import REPO, load
from support.client_process import client, fails
from support.command_line import command
from support.loopback_hub import TOKEN, Fault, Hub

from impflow_zoo.models import hub as hub_of_models
from impflow_zoo.models.folder import ModelFolder


def test_unknown_gated_and_private(hub, online, models, tmp_path):
    cache = str(tmp_path)
    sha = hub.add(REPO, models[0])
    hub.add("zoo/gated", models[0], gated=True)
    hub.add("zoo/private", models[0], private=True)
    fails(online(load, cache, "zoo/missing"), "RepositoryNotFoundError", "zoo/missing", "log in")
    fails(online(load, cache, revision="v9"), "RevisionNotFoundError", f"{REPO}@v9")
    fails(online(load, cache, revision="0" * 40), "RevisionNotFoundError")
    fails(online(load, cache, "zoo/gated"), "GatedRepoError", "zoo/gated", "request access")
    fails(online(load, cache, "zoo/gated", token=TOKEN), "GatedRepoError")
    fails(online(load, cache, "zoo/private"), "RepositoryNotFoundError", "private", "log in")
    assert online(load, cache, "zoo/private", token=TOKEN) == online(load, cache, revision=sha)
    elsewhere = str(tmp_path / "elsewhere")  # what is cached stays usable, as in huggingface_hub
    result = online(load, elsewhere, "zoo/private", token="hf_wrong")
    fails(result, "RepositoryNotFoundError")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(status=500), "HTTP 500"),
        (Fault(status=429), "too many requests"),
        (Fault(delay=2.5), "did not answer in time"),
    ],
    ids=["500", "429", "slow"],
)
def test_hub_in_trouble(hub, online, models, tmp_path, fault, words):
    hub.add(REPO, models[0])
    hub.faults["GET", "/revision/main"] = fault
    fails(online(load, str(tmp_path)), "OSError", REPO, words)


def test_no_network(models, tmp_path):
    with Hub() as gone:
        environment = gone.environment(tmp_path)
    with client(environment) as process:
        result = process(load, str(tmp_path))
        fails(result, "LocalEntryNotFoundError", REPO, "no connection")
        outputs = [process(command, "evaluate", f"{REPO}{at}") for at in ("", f"@{'a' * 40}")]
    for output in outputs:
        assert (output.code, output.out) == (2, "")
        assert output.err.count("\n") == 1


def test_bodies_cut_short_and_changed(hub, online, models, tmp_path):
    files = models[0]
    hub.add(REPO, files)
    value = online(load, str(tmp_path / "a"))
    half = len(files["model.safetensors"]) // 2
    get = ("GET", "model.safetensors")
    hub.faults[get] = Fault(cut=half, times=1)  # the client goes on where the body broke off
    assert online(load, str(tmp_path / "b")) == value
    hub.faults[get] = Fault(cut=0)
    fails(online(load, str(tmp_path / "e")), "OSError", REPO, "interrupted")
    hub.faults[get] = Fault(body=lambda content: content[:half])
    fails(online(load, str(tmp_path / "c")), "OSError", REPO, "interrupted")
    hub.faults[get] = Fault(body=lambda content: content[:-8] + bytes(8))
    fails(online(load, str(tmp_path / "d")), "WeightsError", "sha256")
    hub.faults.clear()
    assert online(load, str(tmp_path / "d"), force_download=True) == value


def test_pickle_only_is_refused(hub, online, models, tmp_path):
    config = {"config.json": models[0]["config.json"]}
    for i, files in enumerate(({}, config)):
        hub.add("zoo/pickle", {**files, "pytorch_model.bin": b"\x80\x02."})
        fails(online(load, str(tmp_path / str(i)), "zoo/pickle"), "WeightsError", "pickle")
    assert not any(m == "GET" and p.endswith(".bin") for m, p in hub.requests)


class XetObjectNotFoundError(FileNotFoundError):
    """As the storage client has it."""


@pytest.mark.parametrize("error", [RuntimeError, XetObjectNotFoundError])
def test_a_storage_client_that_fails(tmp_path, monkeypatch, error):
    def download(*_: object, **__: object) -> str:
        raise error(f"Task error: CAS Client Error:\nrequest with {TOKEN}")

    monkeypatch.setattr(hub_of_models, "snapshot_download", download)
    with pytest.raises(LocalEntryNotFoundError, match=f"{REPO}: the transfer failed"):
        ModelFolder.open(REPO, cache_dir=tmp_path, local_files_only=True)


def test_what_is_cached_is_refused_without_a_request(hub, online, models, tmp_path):
    files = {"config.json": models[0]["config.json"], "pytorch_model.bin": b"\x80\x02."}
    hub.add("zoo/pickle", files)
    online(load, str(tmp_path), "zoo/pickle")
    hub.requests.clear()
    result = online(load, str(tmp_path), "zoo/pickle", local_files_only=True)
    fails(result, "WeightsError", "has no model.safetensors")
    assert hub.requests == []


def test_not_a_model_of_ours(hub, online, models, tmp_path):
    hub.add("zoo/other", {"README.md": b"hello"})
    hub.add("zoo/bare", {"config.json": models[0]["config.json"]})
    fails(online(load, str(tmp_path), "zoo/other"), "ConfigError", "has no config.json")
    fails(online(load, str(tmp_path), "zoo/bare"), "WeightsError", "has no model.safetensors")


@pytest.mark.parametrize(
    "model",
    ["../../etc/passwd", "a/../../b", "/nowhere", "~/x", "a/b/c", "zoo/..", "zoo/a b",
     f"{REPO}@../../x", f"{REPO}@/etc", f"{REPO}@a..b", f"{REPO}@", "zoo/small?x", ""],
)  # fmt: skip
def test_ids_and_revisions_cannot_climb(hub, online, tmp_path, model):
    result = online(load, str(tmp_path / "cache"), model)
    fails(result, "ModelError")
    assert hub.requests == []
    assert not (tmp_path / "cache").exists()
