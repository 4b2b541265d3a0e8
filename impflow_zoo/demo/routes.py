"""Requests that the page itself never makes are refused.

gradio serves more than the page needs. Some of its routes keep what they are sent for good
(recordings, links to a state), others read a body of any length into memory.
"""

from __future__ import annotations

from impflow_zoo.demo.asgi import App, Message, Receive, Send, answer, content_length

__all__ = ["LONGEST", "OwnRoutes"]

LONGEST = 1_000_000  # bytes of a request that is no upload
_PREFIX = "/gradio_api"
_UPLOAD = "/upload"  # the quota looks at its length
_POSTED = ("/queue/join", "/cancel", "/reset")
_STORED = "/deep_link"  # a GET that writes a file
_NO_ROUTE = (404, "The demo's page sends no such request.")
_TOO_LONG = (413, f"A request tells its length, which is at most {LONGEST:,} bytes.")


class OwnRoutes:
    """An ASGI app that passes on uploads, events of the page, and what only reads.

    Arguments:
        app: to pass requests on to.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (answer(send, *refusal) if refusal else self.app(scope, receive, send))

    def _refusal(self, scope: Message) -> tuple[int, str] | None:
        route = scope["path"].rstrip("/").partition(_PREFIX)[2]
        if route == _STORED:
            return _NO_ROUTE
        if scope["method"] != "POST" or route == _UPLOAD:
            return None
        if route not in _POSTED:
            return _NO_ROUTE
        length = content_length(scope)
        return _TOO_LONG if length is None or length > LONGEST else None
