"""Sending to the Hub: what is sent, what comes back, and what happens when it fails."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support import staged_folder
from support.client_process import Client, client
from support.command_line import Outcome, command
from support.loopback_hub import TOKEN, Fault, Hub
from support.small_models import make
from support.snippets import run_snippet

from impflow_zoo import ResFlow, create_model
from impflow_zoo.models import registry
from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.filenames import CARD, TEST_ROWS, WEIGHTS
from impflow_zoo.zoo import sending


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


@pytest.fixture(scope="module")
def publisher(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    home = tmp_path_factory.mktemp("home")
    with client(hub.environment(home, HF_TOKEN=TOKEN)) as process:
        yield process


@pytest.fixture(autouse=True)
def _fresh(hub: Hub) -> None:
    hub.repositories.clear()
    hub.requests.clear()
    hub.faults.clear()


def test_publish_load_update(hub, publisher, originals, tmp_path):
    """A published model loads by id; its update too; the old commit still gives the old one."""
    first, second = (_publish(publisher, folder) for folder in originals)
    repository = hub.repositories["model", "org/tiny"]
    assert [sha for sha, _ in repository.commits] == [first, second]
    for sha, folder in zip((first, second), originals, strict=True):
        commit = repository.at(sha)
        assert commit is not None
        files = {f.name: f.read_bytes() for f in staged_folder.sent(folder)}
        assert {**commit[1], CARD: b""} == {**files, CARD: b""}
        loaded = publisher(_score, f"org/tiny@{sha}", str(tmp_path))
        assert loaded == _score(str(folder), None)
    assert publisher(_score, "org/tiny", str(tmp_path)) == _score(str(originals[1]), None)
    card = repository.head[CARD].decode()
    assert 'create_model("org/tiny")' in card
    assert "impflow-zoo evaluate org/tiny" in card
    assert "hf download org/tiny recipe.yaml --local-dir tiny\nimpflow-zoo train tiny/rec" in card
    assert _publish(publisher, originals[1], "unchanged") == second
    assert len(repository.commits) == 2


def _publish(publisher: Client, folder: Path, outcome: str = "http://") -> str:
    output = publisher(command, "publish", str(folder), "--namespace", "org")
    assert output.code == 0, output
    assert TOKEN not in output.out + output.err
    match = re.search(rf"^org/tiny ([0-9a-f]{{40}}) {outcome}", output.out, re.MULTILINE)
    assert f"{int(outcome != 'unchanged')} of 1 models sent" in output.out
    assert match, output
    return match[1]


def _score(model: str, cache: str | None) -> list[float]:
    loaded = create_model(model, cache_dir=cache, verify=True)
    return loaded.log_prob(torch.linspace(-1, 1, 6).reshape(3, 2)).tolist()


@pytest.mark.parametrize(
    ("path", "answer"),
    [("repos/create", b"<html>"), ("commit/main", b"<html>"), ("commit/main", b"{}")],
)
def test_an_answer_that_is_none_ends_in_one_line(hub, publisher, folder, path, answer):
    hub.faults["POST", path] = Fault(body=lambda _: answer)
    output = publisher(command, "publish", str(folder), "--namespace", "org")
    assert (output.code, output.err.count("\n")) == (2, 1), output
    assert "the answer is none of a Hub, perhaps of a login page" in output.err
    hub.faults.clear()
    _publish(publisher, folder, "" if path == "repos/create" else "unchanged")


@pytest.mark.parametrize(
    ("name", "added", "problem"),
    [
        (WEIGHTS, b"x", "is truncated or damaged"),
        ("recipe.yaml", TOKEN.encode(), "token"),
    ],
)
def test_a_file_that_changes_after_the_check_is_not_sent(
    hub, publisher, folder, name, added, problem
):
    def change(answer: bytes) -> bytes:
        with open(folder / name, "ab") as file:
            file.write(added)
        return answer

    hub.faults["POST", "repos/create"] = Fault(body=change)
    output = publisher(command, "publish", str(folder), "--namespace", "org")
    assert (output.code, output.err.count("\n")) == (2, 1), output
    assert "tiny was changed meanwhile: " in output.err
    assert problem in output.err
    assert hub.repositories["model", "org/tiny"].head == {}


def test_a_file_that_is_gone_is_deleted_and_others_stay(hub, publisher, folder):
    stays, goes = (
        {"LICENSE": b"MIT", ".gitattributes": b""},
        {TEST_ROWS: b"old"},
    )
    hub.add("org/tiny", {**stays, **goes})
    _publish(publisher, folder)
    assert set(hub.repositories["model", "org/tiny"].head) == {
        *(path.name for path in staged_folder.sent(folder)),
        *stays,
    }


def test_a_commit_of_somebody_else_in_the_meantime_is_not_mixed_with_ones_own(
    hub, publisher, originals
):
    own, other = originals
    files = {path.name: path.read_bytes() for path in staged_folder.sent(other)}
    hub.add("org/tiny", {})

    def commit_of_another(answer: bytes) -> bytes:
        hub.add("org/tiny", files)
        return answer

    hub.faults["POST", "preupload/main"] = Fault(body=commit_of_another, times=1)
    output = publisher(command, "publish", str(own), "--namespace", "org")
    assert (output.code, output.err.count("\n")) == (2, 1), output
    assert (
        "org/tiny: the Hub answered HTTP 412: it was changed in the meantime: look at it"
        in output.err
    )
    assert hub.repositories["model", "org/tiny"].head == files
    hub.faults.clear()
    _publish(publisher, own)


def test_a_model_of_the_zoo_is_found_by_name_where_its_weights_are_left_out(
    hub, publisher, folder, tmp_path
):
    """What a release does: send, record the commits, leave weights out of the wheel."""
    zoo, value = folder.parent, _score(str(folder), None)
    sha = publisher(_publish_from, zoo, "tiny")
    assert json.loads((zoo / "revisions.json").read_text()) == {"org/tiny": sha}
    (folder / WEIGHTS).unlink()
    assert publisher(_score_of_zoo, zoo, str(tmp_path / "cache")) == value


def test_pull_requests_and_folders_elsewhere_are_not_recorded(hub, publisher, folder, tmp_path):
    publisher(_publish_from, folder.parent, "tiny", "--create-pr")
    publisher(_publish_from, tmp_path / "another", str(folder))
    assert not list(tmp_path.rglob("revisions.json"))


def _publish_from(zoo: Path, model: str, *options: str) -> str | None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "zoo_folder", lambda: zoo)
        output = command("publish", model, "--namespace", "org", *options)
    assert output.code == 0, output
    found = re.search(r"^org/tiny ([0-9a-f]{40}) ", output.out, re.MULTILINE)
    return found and found[1]


def _score_of_zoo(zoo: Path, cache: str) -> list[float]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "zoo_folder", lambda: zoo)
        patch.setenv("IMPFLOW_ZOO_NAMESPACE", "org")
        return _score("tiny", cache)


def test_dry_run_makes_no_request(hub, publisher, folder):
    arguments = ("publish", str(folder), "--namespace", "org", "--dry-run")
    output = publisher(command, *arguments)
    assert output.code == 0, output
    assert "9 files" in output.out
    assert "nothing was sent" in output.out
    listed = json.loads(publisher(command, *arguments, "--json").out)
    assert listed["sent"] == []
    assert listed["models"][0]["name"] == "tiny"
    assert hub.requests == []


def test_one_bad_folder_stops_all(hub, publisher, folder, tmp_path):
    bad = shutil.copytree(folder, tmp_path / "elsewhere" / "worse")
    output = publisher(command, "publish", str(folder), str(bad), "--namespace", "org")
    assert output.code == 2
    assert "worse (README.md does not agree with" in output.err
    assert output.err.count("\n") == 1
    assert hub.requests == []


def test_pull_request_leaves_main_alone(hub, publisher, folder):
    hub.add("org/tiny", {})
    output = publisher(command, "publish", str(folder), "--namespace", "org", "--create-pr")
    assert output.code == 0, output
    assert "/discussions/1" in output.out
    repository = hub.repositories["model", "org/tiny"]
    assert (repository.pulls, len(repository.commits)) == (1, 1)


def test_private(hub, publisher, folder):
    arguments = ("publish", str(folder), "--namespace", "org", "--private")
    assert publisher(command, *arguments).code == 0
    assert hub.repositories["model", "org/tiny"].private
    hub.repositories["model", "org/tiny"].private = False
    output = publisher(command, *arguments)
    assert output.code == 2
    assert "exists and is public" in output.err


def test_without_a_token_nothing_is_asked(hub, publisher, folder):
    output: Outcome = publisher(_without_token, str(folder))
    assert output.code == 2
    assert "hf auth login" in output.err
    assert hub.requests == []


def _without_token(folder: str) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HF_TOKEN")
        return command("publish", folder, "--namespace", "org")


def test_a_refused_token_does_not_show(hub, publisher, folder):
    output: Outcome = publisher(_with_token, str(folder), TOKEN + "x")
    assert output.code == 2
    assert output.err.count("\n") == 1
    assert "401" in output.err
    assert TOKEN not in output.err + output.out


def _with_token(folder: str, token: str) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", token)
        return command("publish", folder, "--namespace", "org")


def test_an_upload_that_fails_ends_in_one_line(hub, publisher, folder):
    output: Outcome = publisher(_with_broken_storage, str(folder))
    assert (output.code, output.err.count("\n")) == (2, 1)
    assert "org/tiny: the transfer failed" in output.err
    assert hub.repositories["model", "org/tiny"].commits == []


def _with_broken_storage(folder: str) -> Outcome:
    def create_commit(*_: object, **__: object) -> None:
        raise RuntimeError("Error while uploading 'model.safetensors' to the Hub.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sending.HfApi, "create_commit", create_commit)
        return command("publish", folder, "--namespace", "org")


def test_push_to_hub(hub, publisher, tmp_path):
    """What users send themselves comes back the same, with a card whose snippet runs."""
    values, snippet = publisher(_push_and_load, str(tmp_path))
    assert values[0] == values[1]
    assert 'from_pretrained("org/mine")' in snippet
    assert hub.repositories["model", "org/mine"].private


def _push_and_load(cache: str) -> tuple[list[float], str]:
    from huggingface_hub import hf_hub_download

    torch.manual_seed(0)
    x = torch.zeros(1, 2)
    model = make(ResFlow)
    model.push_to_hub("org/mine", private=True)
    loaded = ResFlow.from_pretrained("org/mine", cache_dir=cache)
    card = Path(hf_hub_download("org/mine", CARD, cache_dir=cache)).read_text()
    run_snippet(card)
    return [model.log_prob(x).item(), loaded.log_prob(x).item()], card


def test_a_name_without_owner_becomes_ones_own(hub, publisher, tmp_path):
    for pushed in (_push_bare, _save_and_push_bare):
        publisher(pushed, str(tmp_path / "flow"))
        card = hub.repositories["model", "me/flow"].head[CARD].decode()
        assert 'from_pretrained("me/flow")' in card


def _push_bare(folder: str) -> None:
    make(ResFlow).push_to_hub(Path(folder).name)


def _save_and_push_bare(folder: str) -> None:
    make(ResFlow).save_pretrained(folder, push_to_hub=True)


@pytest.mark.parametrize("repo_id", ["no namespace", "a/b/c"])
def test_what_is_no_id_is_refused_before_anything_is_sent(repo_id, tmp_path, hub):
    with pytest.raises(ModelError, match=f"'{repo_id}' is not a Hub id, 'owner/name'"):
        make(ResFlow).push_to_hub(repo_id)
    assert hub.requests == []


def test_save_pretrained_sends_the_card_that_it_keeps(hub, publisher, tmp_path):
    folder = tmp_path / "mine"
    make(ResFlow).save_pretrained(folder, card="# My own card\n")
    publisher(_save_and_push, str(folder))
    assert (folder / CARD).read_text() == "# My own card\n"
    files = hub.repositories["model", "org/mine"].head
    assert b"# My own card" in files[CARD]


def _save_and_push(folder: str) -> None:
    model = ResFlow.from_pretrained(folder)
    model.save_pretrained(folder, push_to_hub=True, repo_id="org/mine")
