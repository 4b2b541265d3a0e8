"""The gallery of the zoo and a page for every model, from the models' folders."""

from __future__ import annotations

import html
import re
from functools import cache
from pathlib import Path

from PIL import Image

from impflow_zoo.models.folder import CARD, CURVE, PICTURE
from impflow_zoo.models.metrics import METRICS
from impflow_zoo.zoo.cards import time_spent
from impflow_zoo.zoo.record import Record, records
from machinery.addresses import ROOT, for_page

ZOO = ROOT / "hub_configs"
# The gallery leads there, not the navigation. A search finds the names of models alone.
ORPHAN = "---\norphan: true\nnosearch: true\n---\n\n"
WIDTH = 480  # of a thumbnail, pixels
FIRST = (  # in the gallery: the pictures to begin with
    "impflow-rings",
    "resflow-mnist14-given-label",
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
README_PICTURES = re.findall(r"!\[[^]]*\]\(([^):]+)\)", (ROOT / "README.md").read_text("utf-8"))


@cache
def found() -> list[Record]:
    """The models: those to begin with, then those of one data set side by side."""

    def place(record: Record) -> tuple[int, str, str]:
        rank = FIRST.index(record.name) if record.name in FIRST else len(FIRST)
        return rank, record.data.lower(), record.name

    return sorted(records(ZOO), key=place)


def pages() -> dict[str, str]:
    """The gallery and the cards."""
    trained = [record for record in found() if record.entry]
    made = {f"zoo/{record.name}.md": _card_page(record) for record in trained}
    families = sorted({record.stated.model for record in trained})
    data = sorted({record.data for record in trained}, key=str.lower)
    cards = "\n".join(_card(record) for record in trained)
    made["zoo/index.md"] = _GALLERY.format(
        families=_options(families), data=_options(data), cards=cards
    )
    return made


def thumbnails(folder: Path) -> None:
    """Small pictures of all models."""
    folder.mkdir(parents=True, exist_ok=True)
    for record in found():
        if record.entry and (source := _picture(record)) is not None:
            with Image.open(source) as image:
                shown = _detail(image, left=record.stated.config.context_features is not None)
                shown.thumbnail((WIDTH, WIDTH))
                shown.convert("RGB").save(folder / f"{record.name}.webp", quality=80)


def _detail(image: Image.Image, *, left: bool) -> Image.Image:
    """Half of a wide picture: samples and densities stand at the right, predictions at the left."""
    width, height = image.size
    if width < 1.5 * height:
        return image
    return image.crop((0, 0, width // 2, height) if left else (width // 2, 0, width, height))


def _picture(record: Record) -> Path | None:
    return record.folder.file(PICTURE) or record.folder.file(CURVE)


def _card_page(record: Record) -> str:
    """The card of a model without the header that the Hub reads."""
    source = f"hub_configs/{record.name}/{CARD}"
    text = (ROOT / source).read_text("utf-8")
    if text.startswith("---\n"):
        text = text.split("\n---\n", 1)[1]
    return ORPHAN + for_page(text.lstrip(), source, f"zoo/{record.name}")


def _options(names: list[str]) -> str:
    return "".join(f"<option>{html.escape(name)}</option>" for name in names)


def _card(record: Record) -> str:
    entry, facts = record.entry, record.facts
    assert entry is not None
    size = sum(path.stat().st_size for path in record.folder.path.glob("model.safetensors")) / 1e6
    figures = [
        f"{entry.value:.3f} ± {entry.stderr:.3f} {METRICS[entry.metric].unit}",
        f"{record.parameters:,} parameters" + (f", {size:.1f} MB" if size > 0.05 else ""),
        f"invertible: certified, margin {record.margin:.3g}"
        if record.margin
        else "invertible by construction",
        f"trained in {time_spent(facts.minutes)}" if facts else "",
    ]
    return _CARD.format(
        name=record.name,
        family=record.stated.model,
        data=html.escape(record.data),
        picture=f'<img src="../_static/zoo/{record.name}.webp" alt="" loading="lazy">'
        if _picture(record)
        else "",
        figures="".join(f"<li>{html.escape(line)}</li>" for line in figures if line),
    )


_CARD = """<article class="zoo-card" data-family="{family}" data-data="{data}">
<a href="{name}.html">{picture}<h3>{name}</h3></a>
<p>{family}, {data}</p>
<ul>{figures}</ul>
<pre>create_model("{name}")</pre>
</article>"""

_GALLERY = """# The zoo

All models with weights, and their scores on the test split. Nats are mean log-densities: higher is
better. For bits and bits/dim lower is better. Click on a picture for the model's page. The line of
code loads the model, after `from impflow_zoo import create_model`.

A [table that sorts](../models.md) shows the same models, beside papers and baselines.

```{{raw}} html
<form class="zoo-filter">
<label>Data <select name="data"><option value="">all</option>{data}</select></label>
<label>Family <select name="family"><option value="">all</option>{families}</select></label>
<output></output>
</form>
<div class="zoo">
{cards}
</div>
<script>
const form = document.querySelector(".zoo-filter");
const cards = [...document.querySelectorAll(".zoo-card")];
function show() {{
  for (const card of cards)
    card.hidden = [...form.querySelectorAll("select")].some(
      (choice) => choice.value && choice.value !== card.dataset[choice.name]);
  const left = cards.filter((card) => !card.hidden);
  form.querySelector("output").textContent = left.length + " models";
}}
form.addEventListener("change", show);
show();
</script>
```
"""
