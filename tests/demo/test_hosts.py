"""The demo answers its own pages alone."""

from __future__ import annotations

import asyncio

import pytest

from impflow_zoo.demo.hosts import OwnHosts, named_hosts

NAMED = ("demo.example.org", "*.hf.space", "[fd00::1]")
OWN = {
    "localhost": ("localhost:7860", None),
    "IPv4": ("127.0.0.1:7860", None),
    "IPv6": ("[::1]:7860", "http://[::1]:7860"),
    "its own page": ("localhost:7860", "http://localhost:7860"),
    "another of its names": ("127.0.0.1:7860", "http://LOCALHOST:7860"),
    "a named host": ("demo.example.org", "https://demo.example.org"),
    "a named host at a port": ("demo.example.org:8443", "https://demo.example.org:8443"),
    "a named address": ("[fd00::1]:80", None),
    "a Space": ("me-zoo.hf.space", "https://me-zoo.hf.space"),
    "a proxy that sends its own name": ("127.0.0.1:7860", "https://demo.example.org"),
}
FOREIGN = {
    "a name for this machine": ("evil.example:7860", None),
    "a longer name": ("localhost.evil.example:7860", None),
    "a name in front": ("evilhf.space", None),
    "another port": ("localhost:9999", None),
    "no port": ("localhost", None),
    "two names": ("localhost:7860@evil.example", None),
    "no name": ("", None),
    "no host": (None, None),
    "no address": ("[::1:7860", None),
    "a foreign page": ("localhost:7860", "https://evil.example"),
    "a page of another server here": ("localhost:7860", "http://localhost:3000"),
    "a page without a name": ("localhost:7860", "null"),
    "a page of a name for this machine": ("evil.example:7860", "http://evil.example:7860"),
}


def answer(host: str | None, origin: str | None, kind: str = "http") -> list[dict]:
    """What a server at port 7860 sends back."""
    sent: list[dict] = []

    async def app(scope, receive, send) -> None:
        await send({"type": "passed"})

    async def send(message) -> None:
        sent.append(message)

    headers = [(b"host", host), (b"origin", origin)]
    given = [(name, value.encode()) for name, value in headers if value is not None]
    scope = {"type": kind, "headers": given, "server": ("127.0.0.1", 7860)}
    asyncio.run(OwnHosts(app, NAMED)(scope, None, send))
    return sent


@pytest.mark.parametrize(("host", "origin"), OWN.values(), ids=OWN)
def test_its_own_pages_are_answered(host, origin):
    assert answer(host, origin) == [{"type": "passed"}]


@pytest.mark.parametrize(("host", "origin"), FOREIGN.values(), ids=FOREIGN)
def test_foreign_requests_are_refused(host, origin):
    start, body = answer(host, origin)
    assert start["status"] == 403
    assert b"--allowed-host" in body["body"]
    assert answer(host, origin, "websocket")[0]["type"] == "websocket.close"


@pytest.mark.parametrize("host", [None, "localhost", "127.0.0.1", "::1"])
def test_the_address_that_is_listened_on_admits_no_other_server_of_this_machine(host):
    assert named_hosts(host, ("demo.example.org",)) == ["demo.example.org"]


def test_an_address_on_the_network_is_served_at_any_port():
    assert named_hosts("192.0.2.1", ()) == ["192.0.2.1"]


def test_other_events_of_a_server_pass():
    assert answer(None, None, "lifespan") == [{"type": "passed"}]
