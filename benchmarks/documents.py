"""Tables of measured figures: kept in `results/`, and shown between markers in a document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from impflow_zoo.zoo.markdown import between, markdown

__all__ = ["README", "RESULTS", "ROOT", "SOLVERS", "between", "markdown", "publish"]

ROOT = Path(__file__).parents[1]
SOLVERS = ROOT / "benchmarks" / "notebook" / "solvers-and-logdets.md"
README = ROOT / "benchmarks" / "README.md"
RESULTS = ROOT / "benchmarks" / "results"


def publish(document: Path, tables: dict[str, str], figures: Any, name: str) -> None:
    """Keep figures as `results/NAME.json`, and show the tables made of them in a document."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n")
    text = document.read_text(encoding="utf-8")
    for marker, table in tables.items():
        text = between(text, marker, table)
    document.write_text(text, encoding="utf-8")
