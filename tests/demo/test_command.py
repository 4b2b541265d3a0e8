"""How mistakes of `impflow-zoo demo` end: one plain line, exit code 2."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import datasets
import pytest

from impflow_zoo.models.fields import ModelError


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a server sets for its process is undone."""
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, "")


def test_without_the_extra_it_is_told_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    outcome = run("demo")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == "impflow-zoo: the demo needs gradio: pip install 'impflow_zoo[demo]'\n"


def test_copies_of_uploads_go_to_the_folder_that_is_removed(run, monkeypatch):
    pytest.importorskip("gradio", reason="the demo needs the extra demo")
    pytest.importorskip("matplotlib")
    before, places = datasets.config.HF_DATASETS_CACHE, []

    def stop(*_: object) -> None:
        places.append(Path(datasets.config.HF_DATASETS_CACHE).parent)
        raise ModelError("stop")

    monkeypatch.setattr("impflow_zoo.demo.exhibits.Hall", stop)
    assert run("demo").err == "impflow-zoo: stop\n"
    assert [place.name.startswith("impflow-zoo-") for place in places] == [True]
    assert not places[0].exists()
    assert before == datasets.config.HF_DATASETS_CACHE


MISTAKES = {
    "unknown model": (["impflow-pow"], "no model 'impflow-pow' in the zoo"),
    "no model": (["{}"], "has no config.json: not a model"),
    "no data": (["{plane}", "--data", "./none.csv"], "no such file or folder: ./none.csv"),
    "other data": (["{space}", "--data", "toy:moons"], "columns are x, y, not a, b, c"),
    "unknown split": (["{plane}", "--split", "dev"], "no split 'dev'"),
    "no such host": (["{plane}", "--host", "203.0.113.1"], "is no address of this machine"),
    "an address for a host": (
        ["{plane}", "--allowed-host", "https://a.example/"],
        "is no host: name it alone",
    ),
    "no such device": (["{plane}", "--device", "mps"], "device='mps': "),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_ends_in_one_line(arguments, message, run, plane, space, tmp_path):
    pytest.importorskip("gradio", reason="the demo needs the extra demo")
    pytest.importorskip("matplotlib")
    places = {"plane": plane, "space": space}
    outcome = run("demo", *(a.replace("{}", str(tmp_path)).format(**places) for a in arguments))
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_a_port_in_use_is_told_in_a_line(run, plane):
    pytest.importorskip("gradio", reason="the demo needs the extra demo")
    pytest.importorskip("matplotlib")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        outcome = run("demo", plane, "--port", port)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == (
        f"impflow-zoo: port {port} of 127.0.0.1 is not free: name another one with --port\n"
    )
