"""Loading by Hub id: the real client against a Hub on 127.0.0.1."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from support.client_process import Client, Failure, client, fails
from support.command_line import command
from support.loopback_hub import TOKEN, Fault, Hub
from support.small_models import make, rows

from impflow_zoo import ResFlow
from impflow_zoo.models import hub as hub_of_models
from impflow_zoo.models.folder import CONFIG, GOLDEN, RESULTS, WEIGHTS, ModelFolder
from impflow_zoo.record import Entry, results_text

REPO = "zoo/small"


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh(hub: Hub) -> None:
    hub.repositories.clear()
    hub.faults.clear()
    hub.requests.clear()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def online(hub: Hub, home: Path) -> Iterator[Client]:
    with client(hub.environment(home)) as process:
        yield process


@pytest.fixture(scope="module")
def offline(hub: Hub, home: Path) -> Iterator[Client]:
    with client(hub.environment(home, HF_HUB_OFFLINE="1")) as process:
        yield process


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, bytes]]:
    """The files of two models of one shape."""
    folders = []
    for seed in range(2):
        torch.manual_seed(seed)
        folder = tmp_path_factory.mktemp("model")
        make(ResFlow).save_pretrained(folder)
        folders.append({f.name: f.read_bytes() for f in folder.iterdir()})
    return folders


def load(cache: str | None, model: str = REPO, **options: Any) -> list[float]:
    """Log-densities of a loaded model; runs in the client's process."""
    from impflow_zoo import create_model

    torch.manual_seed(0)
    return create_model(model, cache_dir=cache, **options).log_prob(rows()).tolist()


def expected(files: dict[str, bytes], folder: Path) -> list[float]:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return load(None, str(folder))


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


def test_bare_name_takes_the_namespace(hub, online, models, tmp_path, monkeypatch):
    name = "impflow-power-plant"
    hub.add(f"elsewhere/{name}", models[0])
    sha = hub.add(f"impflow-zoo/{name}", models[1])
    first, second = (
        online(load, str(tmp_path), f"{n}/{name}") for n in ("elsewhere", "impflow-zoo")
    )
    assert online(load, str(tmp_path), f"{name}@{sha}") == second
    assert online(load, str(tmp_path), name, revision="main") == second
    twice = online(load, str(tmp_path), f"{name}@{sha}", revision="main")
    fails(twice, "ModelError", "names a revision: leave revision='main' out")
    assert online(_load_from, "elsewhere", str(tmp_path), name) == first


def _load_from(namespace: str, cache: str, name: str) -> list[float]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMPFLOW_ZOO_NAMESPACE", namespace)
        return load(cache, name, revision="main")


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


def table(values: list[list[float]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    sink = pyarrow.BufferOutputStream()
    columns = {f"x{i}": list(column) for i, column in enumerate(zip(*values, strict=True))}
    pyarrow.parquet.write_table(pyarrow.table(columns), sink)
    return sink.getvalue().to_pybytes()


def score(model: str, dataset: str | None = None, **options: Any) -> tuple[Any, ...]:
    from impflow_zoo import evaluate

    result = evaluate(model, dataset, **options)
    return result.n, result.value, result.split, result.published


def test_evaluate_by_id_takes_the_split_in_the_repository(hub, online, offline, models):
    values = rows(7).tolist()
    hub.add(REPO, {**models[0], "test.parquet": table(values)})
    n, value, split, published = online(score, REPO)
    assert (n, split, published) == (7, None, None)
    assert online(score, REPO, limit=3)[0] == 3
    hub.requests.clear()
    assert offline(score, REPO) == (n, value, split, published)
    assert hub.requests == []


def test_evaluate_by_id_takes_the_data_of_the_recipe(hub, online, models):
    recipe = {"model": "ResFlow", "config": json.loads(models[0]["config.json"])["config"]}
    recipe["data"] = {"dataset": "toy:moons", "test": "test"}
    hub.add("zoo/toy", {**models[0], "recipe.yaml": json.dumps(recipe).encode()})
    assert online(score, "zoo/toy", limit=5)[:1] == (5,)
    assert online(score, "zoo/toy", limit=5)[2] == "test"


def known(value: float) -> bytes:
    """A `results.json` with a value."""
    entry = Entry(
        data="t",
        split="test",
        metric="log_likelihood",
        value=value,
        stderr=0.1,
        estimator_stderr=0.0,
        n=5,
        seed=0,
        logdet="exact",
        round_trip=1e-6,
    )
    return results_text((entry,)).encode()


def test_results_of_the_revision_asked_for(hub, online, models):
    """A model loaded from an old commit is compared with the results of that commit."""
    data = {"test.parquet": table(rows(5).tolist())}
    old = hub.add("zoo/scored", {**models[0], **data, RESULTS: known(-1.5)})
    hub.add("zoo/scored", {**models[0], **data, RESULTS: known(-2.5)})
    assert online(score, f"zoo/scored@{old}")[3] == -1.5
    assert online(score, "zoo/scored")[3] == -2.5
    hub.add("zoo/scored", {**models[0], **data, RESULTS: b"[{"})
    assert online(score, "zoo/scored")[3] is None


def test_dataset_repository_by_id_and_streamed(hub, online, models):
    values = rows(20).tolist()
    hub.add(REPO, models[0])
    files = {f"data/{s}-00000-of-00001.parquet": table(values) for s in ("train", "test")}
    hub.add("someone/rows", files, kind="dataset")
    n, value, split, _ = online(score, REPO, "someone/rows", split="test")
    assert (n, split) == (20, "test")
    hub.add(REPO, {**models[0], "test.parquet": table(values)})
    assert online(score, REPO)[1] == pytest.approx(value, rel=1e-12)
    assert online(_stream, "someone/rows") == values[:3]
    fails(online(score, REPO, "someone/rows"), "DataError", "several splits", "train, test")


def _stream(dataset: str) -> list[list[float]]:
    from datasets import load_dataset

    stream = load_dataset(dataset, split="test", streaming=True)
    return [list(row.values()) for row in stream.take(3)]


def test_dataset_repositories_in_trouble(hub, online, models):
    hub.add(REPO, models[0])
    hub.add("someone/gated", {"test.parquet": b""}, kind="dataset", gated=True)
    hub.add("someone/broken", {"test.parquet": table(rows(5).tolist())[:-50]}, kind="dataset")
    for name in ("missing", "gated", "broken"):
        fails(online(score, REPO, f"someone/{name}"), "DataError", f"someone/{name}")
