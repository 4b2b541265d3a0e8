"""ImpFlow beside ResFlow: which models are compared, which way is ahead, and the picture."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.staged_folder import FACTS

from impflow_zoo.publishing import pairs
from impflow_zoo.publishing.rows import Row
from impflow_zoo.publishing.scores import SCORES, serialised
from impflow_zoo.recipe import CardSettings, DataSettings

EMPTY = dict.fromkeys(Row.__dataclass_fields__, "")


def row(model: str, value: str, **fields: Any) -> Row:
    known = {"metric": "bits", "data": "moons", "stderr": "0.03", "parameters": "1000"}
    return Row(**{**EMPTY, **known, "model": model, "value": value, "rows_seen": "500", **fields})


ROWS = [
    row("impflow-a", "2.0"),
    row("resflow-a", "2.5", stderr="0.04"),
    row("impflow-b", "-1.0", metric="log_likelihood", data="b"),
    row("resflow-b", "-0.5", metric="log_likelihood", rows_seen="600"),
    row("impflow-untrained", ""),
    row("resflow-untrained", "1.0"),
    row("impflow-alone", "1.0"),
]


def test_pairs_are_models_of_one_name_that_both_have_weights():
    found = pairs.trained_pairs(ROWS)
    assert [(a.model, b.model) for a, b in found] == [
        ("impflow-a", "resflow-a"),
        ("impflow-b", "resflow-b"),
    ]


def test_seeds_are_compared_in_the_mean(tmp_path):
    seeds = {"seeds": "4", "seeds_mean": "2.1", "seeds_std": "0.08"}
    line = pairs.table([(row("impflow-a", "2.0", **seeds), ROWS[1])], tmp_path).splitlines()[2]
    assert "| 2.000 ± 0.030 (4 seeds: 2.100 ± 0.080) | 2.500 ± 0.040 |" in line
    assert line.endswith("|  | +0.4000 ± 0.0640 bits, unpaired |")  # 0.03, 0.04 and 0.08 / 2


def test_ahead_is_positive_where_impflow_is_better(tmp_path):
    lines = pairs.table(pairs.trained_pairs(ROWS), tmp_path).splitlines()[2:]
    first, second = "2.000 ± 0.030 | 2.500 ± 0.040", "-1.000 ± 0.030 | -0.500 ± 0.030"
    assert lines == [
        f"| moons | 1,000 | 500 | {first} |  | +0.5000 ± 0.0500 bits, unpaired |",
        f"| b | 1,000 | 500 / 600 | {second} |  | -0.5000 ± 0.0424 nats, unpaired |",
    ]


@pytest.mark.parametrize(("pair", "ahead"), [(ROWS[:2], "-0.5000"), (ROWS[2:4], "+0.5000")])
def test_models_are_compared_at_equal_time(pair, ahead, tmp_path):
    """What the first comes to after the second has ended does not count."""
    for model, curve in zip(
        (row.model for row in pair), ([[1, 2.0, 3.0], [2, 4.0, 9.0]], [[1, 3.0, 2.5]]), strict=True
    ):
        (tmp_path / model).mkdir()
        (tmp_path / model / "training.json").write_text(json.dumps({**FACTS, "curve": curve}))
    line = pairs.table(pairs.trained_pairs(pair), tmp_path).splitlines()[2]
    assert line.split(" | ")[-2] == ahead


def test_scores_of_the_same_rows_are_compared_row_by_row(tmp_path):
    hard = torch.randn(1000)

    def write(model: str, scores: torch.Tensor, seed: int = 0) -> None:
        (tmp_path / model).mkdir(exist_ok=True)
        result = SimpleNamespace(per_row=scores, seed=seed)
        recipe = SimpleNamespace(card=CardSettings(data_name="a"), data=DataSettings())
        (tmp_path / model / SCORES).write_bytes(serialised(result, recipe))

    write("impflow-a", hard)
    write("resflow-a", hard + 0.5 + 0.1 * torch.randn(1000))
    line = pairs.table(pairs.trained_pairs(ROWS[:2]), tmp_path).splitlines()[2]
    gain, error = re.search(r"\| (\S+) ± (\S+) bits, paired \|$", line).groups()
    assert (gain, float(error)) == ("+0.5000", pytest.approx(0.1 / 1000**0.5, rel=0.1))
    for other in ({"scores": hard[:999]}, {"scores": hard, "seed": 1}):
        write("resflow-a", **other)
        assert "± 0.0500 bits, unpaired |" in pairs.table(pairs.trained_pairs(ROWS[:2]), tmp_path)


def test_a_pair_without_curves_is_left_out_of_the_picture(tmp_path):
    path = tmp_path / "pairs.png"
    pairs.picture(pairs.trained_pairs(ROWS), tmp_path, path)
    assert path.stat().st_size > 1000


@pytest.mark.parametrize("count", [0, 2])
def test_the_picture_has_two_curves_for_each_pair(count, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *arguments: Any, **options: Any) -> None:
        drawn.append(self)
        save(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    for r in ROWS[: 2 * count]:
        folder = tmp_path / r.model
        folder.mkdir()
        (folder / "training.json").write_text(json.dumps(FACTS))
    found = pairs.trained_pairs(ROWS[: 2 * count])
    path: Path = tmp_path / "pairs.png"
    pairs.picture(found, tmp_path, path)
    assert path.stat().st_size > 1000
    curves = [len(ax.lines) for ax in drawn[0].axes]
    assert curves == ([2, 2] * count or [0, 0])
    for ax in drawn[0].axes:
        for line in ax.lines:
            x, y = line.get_data()
            assert list(y) == [-3.0, -2.0]
            assert list(x) in ([100, 1000], [1.0 / 60, 0.1])
