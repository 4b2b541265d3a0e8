"""What a converted model's card says."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from impflow_zoo.models.filenames import CARD
from impflow_zoo.models.store import default_card
from impflow_zoo.models.texts import in_markdown
from impflow_zoo.zoo.markdown import between

if TYPE_CHECKING:
    from conversion.convert import Converted

__all__ = ["text"]

_PLACE = "<!-- conversion -->\n<!-- end of conversion -->\n"
_SECTION = """## Conversion

The {weights} weights of {source} (sha256 `{sha256:.16}...`), a checkpoint of the public training
scripts (https://github.com/{repository}, MIT licence), by `python -m conversion`. Power vectors are
used as they were saved, so that effective weights are those of the public code; a net's norm may
exceed its coefficient by what the vectors had not converged.

Settings of the script: {settings}.

{known}
- the random series of the script's training (`n_dist`) estimates the same log-determinant; here it
  is computed as `logdet` says"""
_REPOSITORIES = {
    "ImpFlow": "thu-ml/implicit-normalizing-flows",
    "ResFlow": "rtqichen/residual-flows",
}


def text(converted: Converted, folder: Path, known: list[str]) -> str:
    """A card that says where the weights come from: a new one, or the one in the folder.

    Arguments:
        converted: the model.
        folder: its folder.
        known: what is known of it, line by line.
    """
    kind, path = type(converted.model).__name__, folder / CARD
    with open(converted.source, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    section = _SECTION.format(
        weights="averaged (EMA)" if converted.averaged else "raw",
        source=in_markdown(converted.source.name),
        sha256=sha256,
        repository=_REPOSITORIES[kind],
        settings=in_markdown(converted.settings.stated()),
        known="\n".join(f"- {line}" for line in known),
    )
    card = default_card(kind, folder.resolve().name, converted.model.config)
    card = card.replace("tags:", "license: mit\ntags:", 1)
    if path.is_file():
        card = path.read_text(encoding="utf-8")
    if not {*_PLACE.splitlines()} <= {*card.splitlines()}:
        card = f"{card.rstrip()}\n\n{_PLACE}"
    return between(card, "conversion", section)
