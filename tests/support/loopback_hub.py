"""A Hub on 127.0.0.1: enough of the protocol for the real clients, and faults on demand.

The clients read `HF_ENDPOINT` when they are imported, so they run in processes of their own, with
`environment(...)`. Repositories live in memory; every commit keeps all its files.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_" + "loopbackTokenOfTheTests"
_RESOLVE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_API = re.compile(r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/(\w[\w-]*)(?:/([^/]+)(?:/(.*))?)?)?")


@dataclass
class Repository:
    """Commits, oldest first, as pairs of sha and files; who may read them."""

    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    private: bool = False
    gated: bool = False
    pulls: int = 0

    @property
    def head(self) -> dict[str, bytes]:
        return self.commits[-1][1] if self.commits else {}

    def commit(self, files: dict[str, bytes]) -> str:
        seed = f"{len(self.commits)}{self.pulls}{sorted(files)}".encode()
        sha = hashlib.sha1(seed + b"".join(files.values())).hexdigest()
        self.commits.append((sha, files))
        return sha

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision == "main":
            return self.commits[-1] if self.commits else ("0" * 40, {})
        return next((c for c in self.commits if c[0] == revision), None)


@dataclass
class Fault:
    """What goes wrong with a request: a status, a delay, headers, a body cut short or changed."""

    status: int | None = None
    delay: float = 0.0
    cut: int | None = None
    body: Callable[[bytes], bytes] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 10**9


class Hub:
    """The server; `with Hub() as hub` runs it.

    `requests` holds (method, path) of all that came in; `faults` maps (method, end of path) to
    what goes wrong with it.
    """

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[tuple[str, str]] = []
        self.faults: dict[tuple[str, str], Fault] = {}
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """What a client has to find in its environment before it imports anything."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": "",
            "HF_HUB_ETAG_TIMEOUT": "1",
            "HF_HUB_DOWNLOAD_TIMEOUT": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            **more,
        }

    def add(
        self, repo_id: str, files: dict[str, bytes], kind: str = "model", **settings: bool
    ) -> str:
        """Put a repository there, or a commit into it; returns its sha."""
        repository = self.repositories.setdefault((kind, repo_id), Repository())
        for name, value in settings.items():
            setattr(repository, name, value)
        return repository.commit(files)

    def writes(self) -> list[tuple[str, str]]:
        """The requests that change something."""
        return [(m, p) for m, p in self.requests if m not in ("GET", "HEAD")]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._handle()

    do_GET = do_POST = do_HEAD  # noqa: N815 - names of the standard library

    def _handle(self) -> None:
        url = urlsplit(self.path)
        path, self.query = unquote(url.path), parse_qs(url.query)
        self.hub.requests.append((self.command, path))
        self.data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.fault = Fault()
        for (method, end), fault in self.hub.faults.items():
            if method == self.command and path.endswith(end) and fault.times > 0:
                fault.times -= 1
                self.fault = fault
        time.sleep(self.fault.delay)
        if self.fault.status is not None:
            return self._send(self.fault.status)
        if match := _RESOLVE.fullmatch(path):
            kind = "dataset" if match[1] else "model"
            return self._resolve(kind, match[2], match[3], match[4])
        if path == "/api/repos/create":
            return self._create()
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if match := _API.fullmatch(path):
            kind, name, action, revision, rest = match.groups()
            return self._api(kind, name, action, revision or "main", rest or "")
        self._send(404)

    def _repository(self, kind: str, name: str) -> Repository | None:
        """The repository if the caller may read it; else the error is sent."""
        repository = self.hub.repositories.get((kind, name))
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repository is None or (repository.private and not known):
            self._send(404 if known else 401, {"X-Error-Code": "RepoNotFound"})
        elif repository.gated:
            self._send(403 if known else 401, {"X-Error-Code": "GatedRepo"})
        else:
            return repository
        return None

    def _resolve(self, kind: str, name: str, revision: str, filename: str) -> None:
        repository = self._repository(kind, name)
        if repository is None:
            return
        commit = repository.at(revision)
        if commit is None:
            return self._send(404, {"X-Error-Code": "RevisionNotFound"})
        headers = {"X-Repo-Commit": commit[0]}
        content = commit[1].get(filename)
        if content is None:
            return self._send(404, {"X-Error-Code": "EntryNotFound", **headers})
        headers |= {"ETag": f'"{_oid(content)}"', "Accept-Ranges": "bytes"}
        status = 200
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(match[1]), int(match[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            status, content = 206, content[first : last + 1]
        self._send(status, headers, content)

    def _create(self) -> None:
        wanted = json.loads(self.data)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(401)
        name = f"{wanted['organization'] or 'me'}/{wanted['name']}"  # the token's owner
        key = (wanted.get("type") or "model", name)
        if key in self.hub.repositories:
            return self._send(409, {}, json.dumps({"url": f"{self.hub.url}/{name}"}).encode())
        self.hub.repositories[key] = Repository(
            private="private" in (wanted.get("visibility"), wanted.get("private") and "private")
        )
        self._json({"url": f"{self.hub.url}/{name}", "id": name})

    def _api(self, kind: str, name: str, action: str | None, revision: str, rest: str) -> None:
        repository = self._repository(kind, name)
        if repository is None:
            return
        commit = repository.at(revision)
        if commit is None:
            return self._send(404, {"X-Error-Code": "RevisionNotFound"})
        sha, files = commit
        if action in (None, "revision"):
            siblings = [{"rfilename": f, "size": len(c)} for f, c in files.items()]
            facts = {"id": name, "sha": sha, "private": repository.private, "siblings": siblings}
            return self._json({**facts, "tags": [], "downloads": 0, "likes": 0})
        if action == "tree":
            return self._tree(files, rest.strip("/"))
        if action == "paths-info":
            wanted = parse_qs(self.data.decode()).get("paths") or json.loads(self.data)["paths"]
            return self._json([e for e in _entries(files) if e["path"] in wanted])
        if action == "preupload":
            paths = [f["path"] for f in json.loads(self.data)["files"]]
            modes = [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]
            for mode in modes:
                if mode["path"] in files:
                    mode["oid"] = _oid(files[str(mode["path"])])
            return self._json({"files": modes})
        if action == "commit":
            return self._commit(repository, name, sha, dict(files))
        self._send(404)

    def _tree(self, files: dict[str, bytes], folder: str) -> None:
        below = [e for e in _entries(files) if not folder or e["path"].startswith(folder + "/")]
        if "true" not in str(self.query.get("recursive")).lower():
            below = [e for e in below if "/" not in e["path"][len(folder) :].strip("/")]
        self._json(below)

    def _commit(
        self, repository: Repository, name: str, head: str, files: dict[str, bytes]
    ) -> None:
        for line in self.data.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if value.get("parentCommit", head) != head:
                return self._send(412)
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        if "create_pr" in self.query:
            repository.pulls += 1
            sha, answer = "f" * 40, {"pullRequestUrl": f"{self.hub.url}/{name}/discussions/1"}
        else:
            sha, answer = repository.commit(files), {}
        self._json({"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha, **answer})

    def _json(self, data: Any) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(data).encode())

    def _send(
        self, status: int, headers: dict[str, str] | None = None, content: bytes = b""
    ) -> None:
        if self.fault.body is not None:
            content = self.fault.body(content)
        self.send_response(status)
        known = {**(headers or {}), "Content-Length": str(len(content)), **self.fault.headers}
        if self.fault.headers:  # what a client leaves of a body would precede the next answer
            known["Connection"] = "close"
        for key, value in known.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: self.fault.cut])
        if self.fault.cut is not None and self.command != "HEAD":
            self.close_connection = True


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entries(files: dict[str, bytes]) -> list[dict[str, Any]]:
    folders = {"/".join(f.split("/")[:i]) for f in files for i in range(1, f.count("/") + 1)}
    return [
        {"type": "directory", "path": f, "oid": "0" * 40, "size": 0} for f in sorted(folders)
    ] + [
        {"type": "file", "path": f, "oid": _oid(c), "size": len(c)}
        for f, c in sorted(files.items())
    ]
