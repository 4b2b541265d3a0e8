"""Answers that are none of a Hub, and files that were damaged in the cache."""

from __future__ import annotations

import pytest
from support.by_id import REPO, expected, load
from support.client_process import fails
from support.command_line import command
from support.loopback_hub import Fault

from impflow_zoo.models.filenames import CONFIG, WEIGHTS

PORTAL = b"<!DOCTYPE html>\n<html><body>\n" + b"<p>Please log in.</p>\n" * 60 + b"</body></html>"
BODIES = {
    "login page": PORTAL,
    "nothing": b"",
    "object": b"{}",
    "list": b"[3]",
    "number": b"3",
    "no commit": b'{"id": "zoo/small", "sha": null}',
    "path for a commit": b'{"id": "zoo/small", "sha": "../../../x"}',
    "deep": b"[" * 100_000,
    "digits": b"9" * 5000,
    "no text": bytes(range(128, 256)),
}


@pytest.mark.parametrize("name", BODIES)
def test_answers_that_are_none(hub, online, models, tmp_path, name):
    sha = hub.add(REPO, models[0])
    paths = ["/revision/main"]
    if name != "object":  # which is a listing, of no files
        paths.append(f"/tree/{sha}")
    for path in paths:
        hub.faults = {("GET", path): Fault(body=lambda _: BODIES[name], times=2)}
        fails(online(load, str(tmp_path)), "OSError", REPO)
    hub.faults.clear()
    value = online(load, str(tmp_path))
    hub.faults["GET", "/revision/main"] = Fault(body=lambda _: BODIES[name])
    assert online(load, str(tmp_path)) == value  # from the cache


def test_a_login_page_in_the_place_of_everything(hub, online, models):
    hub.add(REPO, models[0])
    hub.faults = {(method, ""): Fault(body=lambda _: PORTAL) for method in ("GET", "HEAD")}
    output = online(command, "evaluate", REPO, "--dataset", "toy:moons")
    assert (output.code, output.err.count("\n")) == (2, 1)
    assert "a login page: check the network" in output.err


@pytest.mark.parametrize(
    ("method", "length"), [("GET", "-1"), ("GET", "1"), ("HEAD", "0"), ("HEAD", "9" * 18)]
)
def test_absurd_lengths(hub, online, models, tmp_path, method, length):
    hub.add(REPO, models[0])
    hub.faults[method, WEIGHTS] = Fault(headers={"Content-Length": length})
    fails(online(load, str(tmp_path)), "OSError", REPO)
    hub.faults.clear()
    assert online(load, str(tmp_path)) == expected(models[0], tmp_path / "expected")


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, "golden.safetensors"])
def test_a_file_that_was_cut_in_the_cache_is_fetched_anew(
    hub, online, offline, models, tmp_path, name
):
    sha = hub.add(REPO, models[0])
    value = online(load, str(tmp_path), verify=True)
    (cut,) = tmp_path.glob(f"*/snapshots/{sha}/{name}")
    content = cut.read_bytes()
    cut.resolve().write_bytes(content[:20])
    fails(offline(load, str(tmp_path)), "OSError", f"{name} is damaged in the cache")
    assert cut.read_bytes() == content[:20]
    assert online(load, str(tmp_path), verify=True) == value
    assert cut.read_bytes() == content
    assert offline(load, str(tmp_path), verify=True) == value


def test_weights_that_changed_in_the_cache_are_fetched_anew(hub, online, offline, models, tmp_path):
    sha = hub.add(REPO, models[0])
    value = online(load, str(tmp_path))
    (path,) = tmp_path.glob(f"*/snapshots/{sha}/{WEIGHTS}")
    path.resolve().write_bytes(path.read_bytes()[:-8] + bytes(8))
    fails(offline(load, str(tmp_path)), "WeightsError", "sha256")
    assert online(load, str(tmp_path)) == value
    assert offline(load, str(tmp_path)) == value
