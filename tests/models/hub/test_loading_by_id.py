"""Loading by id: commits, the cache, partial downloads, names."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.by_id import REPO, expected, load
from support.client_process import fails
from support.command_line import command
from support.loopback_hub import Fault

from impflow_zoo.models.filenames import CONFIG, GOLDEN, WEIGHTS


def test_load_update_and_old_sha(hub, online, models, tmp_path):
    first, second = models
    old, new = (expected(files, tmp_path / str(i)) for i, files in enumerate(models))
    cache = str(tmp_path / "cache")
    sha = hub.add(REPO, first)
    assert online(load, cache) == old
    assert online(load, cache, verify=True) == old
    latest = hub.add(REPO, second)
    assert old != new
    assert online(load, cache) == new
    assert online(load, cache, revision=sha) == old
    assert online(load, cache, f"{REPO}@{sha}") == old
    assert online(load, cache, f"{REPO}@{latest}") == new
    assert online(load, cache, revision="main") == new


def _scored(cache: str) -> dict[str, Any]:
    from impflow_zoo import create_model, evaluate

    return evaluate(create_model(REPO, cache_dir=cache), "toy:moons", limit=10).to_dict()


def test_a_score_names_the_commit_of_the_model(hub, online, models, tmp_path):
    sha = hub.add(REPO, models[0])
    assert online(_scored, str(tmp_path))["commit"] == sha


def test_cached_commit_makes_no_request(hub, online, offline, models, tmp_path):
    sha = hub.add(REPO, models[0])
    cache = str(tmp_path / "cache")
    value = online(load, cache)
    hub.requests.clear()
    assert offline(load, cache) == value
    assert offline(load, cache, revision=sha, verify=False) == value
    assert online(load, cache, revision=sha) == value
    assert online(load, cache, local_files_only=True) == value
    assert hub.requests == []
    hub.add(REPO, models[1])
    assert offline(load, cache) == value


def test_weights_come_from_the_commit_of_the_config(hub, online, models, tmp_path):
    """An update between the two files would else mix old and new."""
    sha = hub.add(REPO, models[0])
    online(load, str(tmp_path))
    assert ("GET", f"/{REPO}/resolve/{sha}/model.safetensors") in hub.requests
    counted = [method for method, path in hub.requests if path.endswith("config.json")]
    assert counted == ["HEAD", "GET"]  # as a plain download: it is what downloads are counted by


def test_cache_does_where_the_hub_is_down(hub, online, models, tmp_path):
    hub.add(REPO, models[0])
    cache = str(tmp_path / "cache")
    value = online(load, cache)
    hub.faults["GET", "/revision/main"] = Fault(status=503)
    assert online(load, cache) == value
    fails(online(load, cache, force_download=True), "HfHubHTTPError", REPO, "503")


def test_offline_and_not_cached(hub, offline, online, models, tmp_path):
    sha = hub.add(REPO, models[0])
    for revision in (None, sha):
        result = offline(load, str(tmp_path), revision=revision)
        fails(result, "LocalEntryNotFoundError", REPO, "not in the cache", "offline")
    result = online(load, str(tmp_path), local_files_only=True)
    fails(result, "LocalEntryNotFoundError", "not in the cache")
    assert hub.requests == []


def test_weights_that_are_out_of_reach_are_not_called_missing(
    hub, online, offline, models, tmp_path
):
    """Another program has fetched the config alone."""
    hub.add(REPO, models[0])
    online(_fetch, CONFIG, str(tmp_path))
    fails(offline(load, str(tmp_path)), "LocalEntryNotFoundError", REPO, "not in the cache")
    result = online(load, str(tmp_path), local_files_only=True)
    fails(result, "LocalEntryNotFoundError", "model.safetensors", "not in the cache")


def test_a_commit_of_which_another_program_fetched_a_part_is_completed(
    hub, online, models, tmp_path
):
    sha = hub.add(REPO, models[0])
    for name in (CONFIG, WEIGHTS):
        online(_fetch, name, str(tmp_path), sha)
    value = expected(models[0], tmp_path / "expected")
    assert online(load, str(tmp_path), revision=sha, verify=True) == value


def _fetch(name: str, cache: str, revision: str | None = None) -> None:
    from huggingface_hub import hf_hub_download

    hf_hub_download(REPO, name, cache_dir=cache, revision=revision)


def test_a_download_that_was_cut_is_not_taken_for_the_model(hub, online, offline, models, tmp_path):
    hub.add(REPO, models[0])
    hub.faults["GET", GOLDEN] = Fault(status=403)
    fails(online(load, str(tmp_path)), "HfHubHTTPError", "403")
    fails(offline(load, str(tmp_path)), "LocalEntryNotFoundError", REPO, "not in the cache")


def test_bare_name_takes_the_namespace(hub, online, models, tmp_path, monkeypatch):
    name = "impflow-power-plant"
    hub.add(f"elsewhere/{name}", models[0])
    sha = hub.add(f"impflow-zoo/{name}", models[1])
    first, second = (
        online(load, str(tmp_path), f"{n}/{name}") for n in ("elsewhere", "impflow-zoo")
    )
    assert online(load, str(tmp_path), f"{name}@{sha}") == second
    assert online(load, str(tmp_path), name, revision="main") == second
    assert online(_load_from, "elsewhere", str(tmp_path), name) == first


def _load_from(namespace: str, cache: str, name: str) -> list[float]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMPFLOW_ZOO_NAMESPACE", namespace)
        return load(cache, name, revision="main")


def test_command_line(hub, online, models, tmp_path):
    hub.add(REPO, models[0])
    hub.add("zoo/gated", models[0], gated=True)
    for model in ("zoo/missing", "zoo/gated", f"{REPO}@v9", "zoo/..", REPO):
        output = online(command, "evaluate", model, "--json")
        assert output.code == 2, output
        assert output.out == ""
        assert output.err.startswith("impflow-zoo: ")
        assert output.err.count("\n") == 1
    output = online(command, "evaluate", REPO, "--dataset", "toy:moons", "--limit", "5", "--json")
    assert output.code == 0, output
    assert json.loads(output.out)["n"] == 5
