"""The gallery of the zoo and a page for every model, from the models' folders."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from impflow_zoo.models.filenames import CARD, CURVE, PICTURE, WEIGHTS
from impflow_zoo.models.metrics import METRICS
from impflow_zoo.zoo.cards import time_spent
from impflow_zoo.zoo.comparison import score
from impflow_zoo.zoo.record import Record
from machinery.links import for_site

TEMPLATE = Path(__file__).parents[1] / "templates" / "zoo.md.jinja"
# The gallery leads there, not the navigation. A search finds the names of models alone.
ORPHAN = "---\norphan: true\nnosearch: true\n---\n\n"
WIDTH = 480  # of a small picture, pixels
FIRST = (  # in the gallery: the pictures to begin with
    "impflow-rings",
    "resflow-mnist-given-label",
    "impflow-power-plant",
    "impflow-checkerboard",
    "resflow-cifar10",
    "impflow-2spirals",
    "impflow-mnist",
    "impflow-power-plant-given-weather",
    "resflow-imagenet64-5bit",
    "impflow-protein",
    "impflow-8gaussians",
    "resflow-torus",
)


def pages(found: Sequence[Record]) -> dict[str, str]:
    """The gallery, and the card of each model with weights."""
    trained = [record for record in found if record.entry]

    def place(record: Record) -> tuple[int, str, str]:
        rank = FIRST.index(record.name) if record.name in FIRST else len(FIRST)
        return rank, record.data.lower(), record.name

    template = jinja2.Template(TEMPLATE.read_text("utf-8"), keep_trailing_newline=True)
    gallery = template.render(
        models=sorted(trained, key=place),
        families=sorted({record.stated.model for record in trained}),
        data=sorted({record.data for record in trained}, key=str.lower),
        metrics=METRICS,
        score=score,
        time_spent=time_spent,
        megabytes=lambda record: (record.folder.path / WEIGHTS).stat().st_size / 1e6,
    )
    return {"zoo/index.md": gallery} | {f"zoo/{r.name}.md": _card_page(r) for r in trained}


def _card_page(record: Record) -> str:
    """The card of a model without the header that the Hub reads."""
    text = (record.folder.path / CARD).read_text("utf-8").split("\n---\n", 1)[1]
    return ORPHAN + for_site(text.lstrip(), f"hub_configs/{record.name}/{CARD}")


def thumbnails(found: Sequence[Record], folder: Path) -> None:
    """Small pictures of all models."""
    folder.mkdir(parents=True, exist_ok=True)
    for record in found:
        source = record.folder.file(PICTURE) or record.folder.file(CURVE)
        if record.entry and source:
            with Image.open(source) as image:
                shown = detail(image, left=record.stated.config.context_features is not None)
                shown.thumbnail((WIDTH, WIDTH))
                shown.convert("RGB").save(folder / f"{record.name}.webp", quality=80)


def detail(image: Image.Image, *, left: bool) -> Image.Image:
    """About half of a wide picture: samples and densities are right, predictions left.

    It is cut in the widest empty stripe near the middle: no axis of the other half stays.
    """
    width, height = image.size
    if width < 1.5 * height:
        return image
    empty = (np.asarray(image.convert("L")) == 255).all(axis=0)
    near = range(45 * width // 100, 55 * width // 100)
    stripes = [[*columns] for white, columns in groupby(near, empty.__getitem__) if white]
    stripe = max(stripes, key=len, default=[width // 2])
    cut = stripe[len(stripe) // 2]
    return image.crop((0, 0, cut, height) if left else (cut, 0, width, height))
