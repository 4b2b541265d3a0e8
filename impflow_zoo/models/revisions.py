"""The commits on the Hub that hold the weights of the zoo.

`revisions.json`, beside the models' folders, has them by Hub id. Publishing writes it, and the
wheel contains it. So a model whose weights a wheel leaves out is the one that the wheel was made
with.
"""

from __future__ import annotations

import json
from pathlib import Path

from impflow_zoo.models.writing import change_whole

__all__ = ["pin", "pinned"]

REVISIONS = "revisions.json"


def pinned(zoo: Path, repo_id: str) -> str | None:
    """The commit of a Hub id; None if it was not sent from this zoo.

    Arguments:
        zoo: folder of all models.
        repo_id: `owner/name`.
    """
    path = zoo / REVISIONS
    return _parsed(path.read_bytes() if path.is_file() else b"").get(repo_id)


def pin(zoo: Path, repo_id: str, commit: str) -> None:
    """Record the commit that a model was sent in.

    Arguments:
        zoo: folder of all models.
        repo_id: `owner/name`.
        commit: its sha.
    """

    def changed(text: bytes) -> bytes:
        revisions = dict(sorted({**_parsed(text), repo_id: commit}.items()))
        return (json.dumps(revisions, indent=2) + "\n").encode()

    change_whole(zoo / REVISIONS, changed)


def _parsed(text: bytes) -> dict[str, str]:
    revisions: dict[str, str] = json.loads(text or b"{}")
    return revisions
