"""What a converted model's card says."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from conversion.selfcheck import size_of
from impflow_zoo.models.folder import CARD

if TYPE_CHECKING:
    from conversion.convert import Converted

__all__ = ["text"]

_BEGIN, _END = "<!-- conversion -->", "<!-- end of conversion -->"
_NEW = """---
library_name: impflow_zoo
license: mit
tags:
- normalizing-flow
- density-estimation
- {tag}
---

# {name}

```python
from impflow_zoo import {kind}

model = {kind}.from_pretrained("{name}")
x = model.sample(4)
```
"""
_SECTION = """{begin}
## Conversion

The {weights} weights of `{source}` (sha256 `{sha256:.16}...`), a checkpoint of the public training
scripts (https://github.com/{repository}, MIT licence), by `python -m conversion`. Power vectors are
used as they were saved, so that effective weights are those of the public code; a net's norm may
exceed its coefficient by what the vectors had not converged.

Settings of the script: {settings}.

- {size:,} parameters
{known}
- the random series of the script's training (`n_dist`) estimates the same log-determinant; here it
  is computed as `logdet` says
{end}"""
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
        begin=_BEGIN,
        weights="averaged (EMA)" if converted.averaged else "raw",
        source=converted.source.name,
        sha256=sha256,
        repository=_REPOSITORIES[kind],
        settings=converted.settings.stated(),
        size=size_of(converted.model),
        known="\n".join(f"- {line}" for line in known),
        end=_END,
    )
    card = _NEW.format(tag=kind.lower(), kind=kind, name=folder.resolve().name)
    if path.is_file():
        card = path.read_text(encoding="utf-8")
    if _BEGIN in card and _END in card:
        return card.split(_BEGIN, 1)[0] + section + card.split(_END, 1)[1]
    return f"{card.rstrip()}\n\n{section}\n"
