"""What a converted model's card says."""

from __future__ import annotations

import hashlib
from pathlib import Path

from conversion.settings import Settings
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.store import default_card
from impflow_zoo.models.texts import in_markdown

__all__ = ["text"]

_SECTION = """## Conversion

The {weights} weights of {source} (sha256 `{sha256:.16}...`), a checkpoint of the public training
scripts (https://github.com/{repository}, MIT licence), by `python -m conversion`. Power vectors are
used as they were saved, so that effective weights are those of the public code; a net's norm may
exceed its coefficient by what the vectors had not converged.

Settings of the script: {settings}.

{known}
- the random series of the script's training (`n_dist`) estimates the same log-determinant; here it
  is computed as `logdet` says
"""
_REPOSITORIES = {
    "ImpFlow": "thu-ml/implicit-normalizing-flows",
    "ResFlow": "rtqichen/residual-flows",
}


def text(
    folder: Path,
    known: list[str],
    *,
    source: Path,
    model: FlowModel,
    settings: Settings,
    averaged: bool,
) -> str:
    """A card that says where the weights come from.

    Arguments:
        folder: the model's folder.
        known: what is known of it, line by line.
        source: the checkpoint.
        model: the model.
        settings: the public script's settings.
        averaged: whether the weights are averaged ones.

    Raises:
        OSError: if the checkpoint cannot be read.
    """
    kind = type(model).__name__
    with open(source, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    section = _SECTION.format(
        weights="averaged (EMA)" if averaged else "raw",
        source=in_markdown(source.name),
        sha256=sha256,
        repository=_REPOSITORIES[kind],
        settings=in_markdown(settings.stated()),
        known="\n".join(f"- {line}" for line in known),
    )
    card = default_card(kind, folder.resolve().name, model.config)
    card = card.replace("tags:", "license: mit\ntags:", 1)
    return f"{card}\n{section}"
