"""Requests that the page never makes are refused."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from impflow_zoo.demo.routes import LONGEST, OwnRoutes

REFUSED = [
    ("POST", "/gradio_api/process_recording", 10, 404),  # writes a file that stays
    ("POST", "/gradio_api/component_server", 10, 404),
    ("POST", "/gradio_api/call/score", 10, 404),
    ("POST", "/upload", 10, 404),
    ("POST", "/", 10, 404),
    ("GET", "/gradio_api/deep_link", None, 404),  # writes a file that stays
    ("POST", "/gradio_api/queue/join", LONGEST + 1, 413),
    ("POST", "/gradio_api/queue/join", None, 413),
]
PASSED = [
    ("POST", "/gradio_api/queue/join", LONGEST),
    ("POST", "/gradio_api/cancel", 0),
    ("POST", "/gradio_api/upload", None),  # for the quota
    ("POST", "/a/proxy/adds/gradio_api/upload/", 10**9),
    ("GET", "/", None),
    ("GET", "/gradio_api/queue/data", None),
]


def status(method: str, path: str, length: int | None, kind: str = "http") -> int | None:
    """The status of a refusal; None if the request is passed on."""
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"status": None})

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [] if length is None else [(b"content-length", str(length).encode())]
    scope = {"type": kind, "method": method, "path": path, "headers": headers}
    asyncio.run(OwnRoutes(app)(scope, None, send))
    return sent[0]["status"]


@pytest.mark.parametrize(("method", "path", "length", "refusal"), REFUSED)
def test_other_requests_are_refused(method, path, length, refusal):
    assert status(method, path, length) == refusal


@pytest.mark.parametrize(("method", "path", "length"), PASSED)
def test_requests_of_the_page_pass(method, path, length):
    assert status(method, path, length) is None


def test_other_events_of_a_server_pass():
    assert status("POST", "", None, "lifespan") is None
