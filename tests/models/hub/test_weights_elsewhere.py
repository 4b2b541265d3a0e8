"""Weights of the zoo that the package leaves out come from the Hub, and are the right ones."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.by_id import expected, load
from support.client_process import fails
from support.small_models import write_recipe

from impflow_zoo.models import registry, revisions
from impflow_zoo.models.filenames import CONFIG, WEIGHTS
from impflow_zoo.training import train

NAME = "small"
REPO = f"mine/{NAME}"


@pytest.fixture
def zoo(models, tmp_path) -> Path:
    """A zoo that keeps the config of one model, and leaves its weights out."""
    folder = tmp_path / "zoo" / NAME
    folder.mkdir(parents=True)
    (folder / CONFIG).write_bytes(models[0][CONFIG])
    return folder.parent


def load_from(zoo: Path, cache: Path, name: str = NAME, **options: object) -> list[float]:
    """Load a model where the zoo is another one, and so is the namespace."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "zoo_folder", lambda: zoo)
        patch.setenv("IMPFLOW_ZOO_NAMESPACE", "mine")
        return load(str(cache), name, **options)


def start_from(zoo: Path, cache: Path) -> None:
    """Train on from a model where the zoo is another one, and so is the namespace."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "zoo_folder", lambda: zoo)
        patch.setenv("IMPFLOW_ZOO_NAMESPACE", "mine")
        recipe = write_recipe(cache)
        train(recipe, out=cache / "run", init_from=NAME, progress=False)


def test_the_pinned_commit_is_loaded_though_the_hub_went_on(hub, online, models, zoo, tmp_path):
    sha = hub.add(REPO, models[0])
    newer = hub.add(REPO, models[1])
    revisions.pin(zoo, REPO, sha)
    value = expected(models[0], tmp_path / "expected")
    assert online(load_from, zoo, tmp_path / "cache") == value
    assert ("GET", f"/{REPO}/resolve/{sha}/{WEIGHTS}") in hub.requests
    hub.requests.clear()
    assert online(load_from, zoo, tmp_path / "cache") == value
    assert hub.requests == []  # a commit in the cache needs no request
    latest = online(load_from, zoo, tmp_path / "cache", revision="main")
    assert latest == online(load_from, zoo, tmp_path / "cache", f"{NAME}@{newer}") != value


@pytest.mark.parametrize("is_pinned", [True, False])
def test_another_model_under_the_name_is_refused(is_pinned, hub, online, models, zoo, tmp_path):
    sha = hub.add(REPO, models[1])
    if is_pinned:
        revisions.pin(zoo, REPO, sha)
    for use in (load_from, start_from):
        hub.requests.clear()
        result = online(use, zoo, tmp_path / "cache")
        fails(result, "WeightsError", REPO, "config.json on the Hub is not")
        assert not any(path.endswith(WEIGHTS) for _, path in hub.requests)


def test_without_a_pin_the_newest_has_to_be_the_model(hub, online, models, zoo, tmp_path):
    hub.add(REPO, models[0])
    value = expected(models[0], tmp_path / "expected")
    assert online(load_from, zoo, tmp_path / "cache") == value


def test_weights_that_are_not_those_of_the_config_are_refused(hub, online, models, zoo, tmp_path):
    revisions.pin(zoo, REPO, hub.add(REPO, {**models[0], WEIGHTS: models[1][WEIGHTS]}))
    fails(online(load_from, zoo, tmp_path / "cache"), "WeightsError", "sha256")


def test_no_pin_is_lost_where_two_are_written_at_once(tmp_path):
    def pin_many(owner: str) -> None:
        for i in range(30):
            revisions.pin(tmp_path, f"{owner}/m{i}", "1")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(pin_many, "ab"))
    assert len(json.loads((tmp_path / "revisions.json").read_text())) == 60


def test_pins_are_kept_in_one_file_in_order(tmp_path):
    for repo_id, commit in (("b/x", "1"), ("a/x", "2"), ("b/x", "3")):
        revisions.pin(tmp_path, repo_id, commit)
    text = (tmp_path / "revisions.json").read_text()
    assert json.loads(text) == {"a/x": "2", "b/x": "3"}
    assert text.index("a/x") < text.index("b/x")
    assert text.endswith("}\n")
    assert revisions.pinned(tmp_path, "c/x") is None
