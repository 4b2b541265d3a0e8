"""The two examples of the document on blocks run as they are printed, and arrive."""

from __future__ import annotations

import re

from support.checkout import CHECKOUT

DOCUMENT = CHECKOUT / "docs" / "more-with-blocks.md"


def output_of(title: str, capsys) -> float:
    section = DOCUMENT.read_text().split(f"\n## {title}\n", 1)[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    exec(compile(code, title, "exec"), {})
    return float(re.search(r": (-?\d+\.\d+) ", capsys.readouterr().out)[1])


def test_a_flow_is_fitted_to_a_density(capsys):
    nats = output_of("Variational inference: samples that carry gradients", capsys)
    assert nats < 0.15


def test_a_flow_of_images_is_made_of_blocks(capsys):
    bits = output_of("Images from blocks", capsys)
    assert bits < 3  # a uniform density needs 4.09
