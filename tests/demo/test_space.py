"""The folder of the Space: its card, what it installs, and a start as on the Hub."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import signal
import socket
import time
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from support.checkout import CHECKOUT
from support.demo_page import Server, served

SPACE = CHECKOUT / "space"
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]


def card() -> dict[str, object]:
    _, front, _ = (SPACE / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front)


def test_the_card_says_what_the_hub_asks_for():
    found = card()
    assert found["sdk"] == "gradio"
    assert (SPACE / str(found["app_file"])).is_file()
    assert len(str(found["short_description"])) <= 60  # the Hub refuses longer ones
    assert {found["colorFrom"], found["colorTo"]} <= {"green", "blue"}
    assert str(found["license"]).upper() == PROJECT["license"]
    assert f">={found['python_version']}" == PROJECT["requires-python"]


def test_it_installs_the_extra_of_this_package():
    lines = (SPACE / "requirements.txt").read_text().splitlines()
    (asked,) = (Requirement(line) for line in lines if not line.startswith("--"))
    assert asked.name == PROJECT["name"]
    (gradio,) = (
        found
        for extra in asked.extras
        for found in map(Requirement, PROJECT["optional-dependencies"][extra])
        if found.name == "gradio"
    )
    assert str(card()["sdk_version"]) in gradio.specifier


def test_it_holds_nothing_else():
    assert {path.name for path in SPACE.iterdir() if path.name != "__pycache__"} == {
        "README.md",
        "app.py",
        "requirements.txt",
    }


FILE = (
    b'--b\r\nContent-Disposition: form-data; name="files"; filename="x.csv"\r\n\r\n'
    b"a,b\n1,2\r\n--b--\r\n"
)


def _ask(server: Server, what: str, body: bytes | None = None, **headers: str) -> tuple[int, str]:
    """Status and text of an answer; a body is sent as a form."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    connection.request("POST" if body else "GET", what, body, {**form, **headers})
    with contextlib.closing(connection), connection.getresponse() as answer:
        return answer.status, answer.read().decode()


def test_it_starts_as_on_the_hub_and_leaves_nothing(tmp_path):
    pytest.importorskip("gradio", reason="the demo needs the extra demo")
    pytest.importorskip("matplotlib", reason="the demo needs the extra demo")
    folder = shutil.copytree(SPACE, tmp_path / "space")
    there = {"Host": "me-space.hf.space", "Origin": "https://me-space.hf.space"}
    with served(folder, "app.py", GRADIO_SERVER_NAME="0.0.0.0", SPACE_ID="me/space") as server:
        status, page = _ask(server, "/", **there)
        assert (status, "impflow_zoo" in page) == (200, True)
        for foreign in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
            status, said = _ask(server, "/gradio_api/upload", FILE, **foreign)
            assert (status, said.count("\n")) == (403, 1)
        assert not [*server.temporary.rglob("x.csv")]
        assert _ask(server, "/gradio_api/upload", FILE, **there)[0] == 200
        assert [*server.temporary.rglob("x.csv")]
        form = FILE.replace(b'name="files"', b'name="video"')
        assert _ask(server, "/gradio_api/process_recording", form, **there)[0] == 404
        with socket.create_connection(("127.0.0.1", server.port)) as half:
            head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost:{server.port}\r\n"
            form = "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 9999\r\n\r\n"
            half.sendall(head.encode() + form.encode() + FILE[:-9])
            while not [*server.temporary.glob("*/gradio/tmp*")]:
                time.sleep(0.05)
            server.stop(signal.SIGTERM)
