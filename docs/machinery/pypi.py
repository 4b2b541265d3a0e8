"""The README that PyPI shows: the links of the repository's lead to the site."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

sys.path.insert(0, str(Path(__file__).parents[1]))
from machinery.addresses import ROOT, absolute


class ReadmeOfPyPI(MetadataHookInterface):
    """Called by hatchling for the field that `pyproject.toml` calls dynamic."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the description."""
        text = absolute((ROOT / "README.md").read_text("utf-8"))
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
