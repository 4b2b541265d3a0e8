"""How the page looks: one style for all tables, a picture beside its controls or below them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from impflow_zoo.models.texts import in_markdown

__all__ = ["CSS", "on_step", "rounded", "table"]

CSS = """
.gradio-container > .main { padding-inline: min(32px, 3vw) !important; }
.prose table { display: block; width: max-content; max-width: 100%; overflow-x: auto; }
.prose table, .prose tr, .prose th, .prose td { border: none !important; }
.prose th, .prose td {
  padding: 0.3em 1em 0.3em 0 !important; text-align: left; vertical-align: top;
  overflow-wrap: normal; word-break: normal;
}
.prose tr { border-bottom: 1px solid var(--border-color-primary) !important; }
.prose th { color: var(--block-title-text-color); font-weight: 500; }
#picture img, #way img { max-height: 80vh; }
#picture .image-container, #way .image-container { padding-top: 34px; }  /* below the icons */
#model input { padding-right: 1.5em; text-overflow: ellipsis; }  /* the arrow is there */
.min_value, .max_value { display: inline !important; color: var(--block-label-text-color); }
input[type=range]::-webkit-slider-thumb { border: 1px solid var(--body-text-color-subdued); }
input[type=range]::-moz-range-thumb { border: 1px solid var(--body-text-color-subdued); }
.nav-holder { display: none; }  /* our links between pages keep the model */
.to-page .html-container { padding: 0 !important; }
.to-page a { color: var(--link-text-color); text-decoration: underline; padding: 2px 0; }
.row .to-page { text-align: end; }
.tab-container button { padding: 0 0.6em; }
@media (max-width: 480px) {
  .row .to-page { text-align: start; }
  .tab-container button { padding: 0 0.35em; }
  /* Two sliders stand beside each other, each above its ends. */
  .settings .form > .block { min-width: 150px !important; }
  .head { gap: 0 4px; }
  .head .tab-like-container { margin-bottom: 0; }
  .slider_input_container { flex-wrap: wrap; justify-content: space-between; }
  .slider_input_container input { order: -1; flex: 1 0 100%; }
}
"""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of texts, shown as they are."""
    first, *others = (f"| {' | '.join(map(in_markdown, row))} |" for row in (header, *rows))
    return "\n".join([first, "|---" * len(header) + "|", *others])


def on_step(value: float, step: float) -> float:
    """The multiple of a step that is nearest to a value, in few digits.

    Example:
        >>> on_step(0.4584, 0.02)
        0.46
    """
    return float(f"{round(value / step) * step:.12g}")


def rounded(value: float, error: float = 0.0) -> str:
    """A number with three decimals, or with its error and as many as that deserves.

    Example:
        >>> rounded(-15.507423), rounded(-15.507423, 0.0312)
        ('-15.507', '-15.507 ± 0.031')
    """
    if not (error > 0 and math.isfinite(error)):
        return f"{value:.3f}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"
