"""Requests that pages of other sites have made a browser send are refused.

A site can point a name of its own at this machine (DNS rebinding): the header `Host` tells. A page
can send a file to another address than its own: the header `Origin` tells.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from urllib.parse import urlsplit

from impflow_zoo.demo.asgi import App, Message, Receive, Send, answer

__all__ = ["OwnHosts", "named_hosts"]

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PORTS = {"http": 80, "https": 443}
_SAID = (
    "This address is none of the demo's own. Whoever runs it can allow a host: "
    "impflow-zoo demo --allowed-host NAME\n"
)


def named_hosts(host: str | None, allowed: Iterable[str]) -> list[str]:
    """The hosts that are served at any port: those allowed, and the address listened on.

    A loopback address is not one of them. Other servers of this machine have it, too, and their
    pages are foreign.
    """
    return [*allowed, *([host] if host and host not in _LOOPBACK else [])]


class OwnHosts:
    """An ASGI app that passes on what was sent to the server's own hosts, from their own pages.

    These are the loopback addresses at the port that is served, and named hosts at any port.

    Arguments:
        app: to pass requests on to.
        named: further hosts, such as `demo.example.org` or `*.hf.space`.
    """

    def __init__(self, app: App, named: Iterable[str] = ()) -> None:
        self.app = app
        self._named = [name.strip("[]").lower() for name in named]

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_own(scope):
            await answer(send, 403, _SAID)
        elif scope["type"] == "websocket" and not self._is_own(scope):
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self.app(scope, receive, send)

    def _is_own(self, scope: Message) -> bool:
        headers = [(name, value.decode("latin-1")) for name, value in scope["headers"]]
        hosts = [f"http://{value}" for name, value in headers if name == b"host"]
        origins = [value for name, value in headers if name == b"origin"]
        port = scope["server"][1]
        return len(hosts) == 1 and all(self._serves(url, port) for url in (*hosts, *origins))

    def _serves(self, url: str, port: int) -> bool:
        try:
            parts = urlsplit(url)
            host, asked = parts.hostname or "", parts.port or _PORTS.get(parts.scheme)
        except ValueError:
            return False
        if any(fnmatch.fnmatchcase(host, name) for name in self._named):
            return True
        return host in _LOOPBACK and asked == port
