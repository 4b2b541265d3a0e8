"""ImpFlow beside ResFlow: which models are compared, which way is ahead, and the picture."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import leads
import pytest
import tables
import torch
from support.checkout import CHECKOUT
from support.staged_folder import FACTS

from impflow_zoo.evaluation.entries import Entry
from impflow_zoo.evaluation.row_scores import scores_file
from impflow_zoo.evaluation.standard_errors import standard_error
from impflow_zoo.models.filenames import SCORES
from impflow_zoo.models.folder import ModelFolder
from impflow_zoo.training.facts import Repeat, TrainingFacts
from impflow_zoo.zoo.record import Record, records


def row(folder: Path, name: str, value: float | None, **known: Any) -> Any:
    """What pairs take of a `Record`."""
    facts = TrainingFacts(**{**FACTS, "curve": (), "rows_seen": known.pop("rows_seen", 500)})
    seeds = known.pop("seeds", ())
    facts = replace(facts, repeats=tuple(Repeat(i, v, 0.1, 500, 1.0) for i, v in enumerate(seeds)))
    score = {"data": "moons", "split": "test", "metric": "bits", "stderr": 0.03, "n": 5, "seed": 0}
    score |= {"estimator_stderr": 0.0, "logdet": "exact", "round_trip": 1e-6, "value": value}
    entry = None if value is None else Entry(**{**score, **known})
    made = SimpleNamespace(
        name=name,
        folder=ModelFolder(folder / name),
        entry=entry,
        data=known.get("data", "moons"),
        facts=facts,
        parameters=1000,
    )
    made.over_seeds = Record.over_seeds.func(made)
    return made


def write_scores(
    folder: Path, scores: torch.Tensor, groups: torch.Tensor | None = None, seed: int = 0
) -> None:
    """The scores of a folder's rows, and their groups."""
    folder.mkdir(exist_ok=True)
    result = SimpleNamespace(per_row=scores, row_groups=groups, row_weights=None, seed=seed)
    (folder / SCORES).write_bytes(scores_file(result, "a", "test"))


@pytest.fixture
def rows(tmp_path: Path) -> list[Any]:
    return [
        row(tmp_path, "impflow-a", 2.0),
        row(tmp_path, "resflow-a", 2.5, stderr=0.04),
        row(tmp_path, "impflow-b", -1.0, metric="log_likelihood", data="b"),
        row(tmp_path, "resflow-b", -0.5, metric="log_likelihood", rows_seen=600),
        row(tmp_path, "impflow-untrained", None),
        row(tmp_path, "resflow-untrained", 1.0),
        row(tmp_path, "impflow-alone", 1.0),
    ]


def test_pairs_are_models_of_one_name_that_both_have_weights(rows):
    found = leads.trained_pairs(rows)
    assert [(a.name, b.name) for a, b in found] == [
        ("impflow-a", "resflow-a"),
        ("impflow-b", "resflow-b"),
    ]


def test_the_pairs_of_the_zoo_are_of_one_size_and_saw_as_many_rows():
    """So says the guide."""
    found = leads.trained_pairs(records(CHECKOUT / "hub_configs"))
    assert len(found) > 10
    for one, other in found:
        assert one.facts.rows_seen == other.facts.rows_seen, one.name
        assert one.parameters == pytest.approx(other.parameters, rel=0.02), one.name


def test_the_list_says_who_is_ahead(rows, tmp_path):
    rows += [row(tmp_path, f"{family}-c", 1.0, data="c") for family in ("impflow", "resflow")]
    lines = leads.leads_list(leads.trained_pairs(rows)).splitlines()
    assert lines == [
        "- Of a single training, that of `ImpFlow` scores better: `a`.",
        "- Of a single training, that of `ResFlow` scores better: `b`.",
        "- Level: `c`.",
    ]


def test_a_lead_of_several_seeds_is_named_apart(rows, tmp_path):
    better = row(tmp_path, "impflow-d", 2.0, data="d", seeds=(2.0, 2.1, 2.0))
    worse = row(tmp_path, "resflow-d", 3.0, data="d", seeds=(3.0, 3.1, 3.0))
    assert leads.leads_list([(better, worse)]) == "- `ImpFlow` is ahead over several seeds: `d`."
    assert leads.trained_once((better, rows[1]))


def test_the_best_comes_first_and_neighbours_may_be_level(tmp_path):
    scores = {"A": 2.0, "B": 1.0, "C": 1.01}  # bits: lower is better
    titled = {title: row(tmp_path, title, value) for title, value in scores.items()}
    assert leads.ranking(titled) == "B, level with C, then A"


def test_seeds_are_compared_in_the_mean(rows, tmp_path):
    several = row(tmp_path, "impflow-a", 2.0, seeds=(2.1, 2.2, 2.1))
    error = math.hypot(0.03, 0.04, several.over_seeds[1] / 2)
    line = tables.pairs_table([(several, rows[1])]).splitlines()[2]
    assert line.endswith(
        f"| 2.000 ± 0.030 | 2.500 ± 0.040 | +0.4000 ± {error:.4f}, unpaired, trained once |"
    )


def test_ahead_is_positive_where_impflow_is_better(rows):
    lines = tables.pairs_table(leads.trained_pairs(rows)).splitlines()[2:]
    first, second = "2.000 ± 0.030 | 2.500 ± 0.040", "-1.000 ± 0.030 | -0.500 ± 0.030"
    assert lines == [
        f"| moons | bits | {first} | +0.5000 ± 0.0500, unpaired, trained once |",
        f"| b | nats | {second} | -0.5000 ± 0.0424, unpaired, trained once |",
    ]


def test_scores_of_the_same_rows_are_compared_row_by_row(rows, tmp_path):
    hard = torch.randn(1000)

    def write(model: str, scores: torch.Tensor, seed: int = 0) -> None:
        write_scores(tmp_path / model, scores, seed=seed)

    write("impflow-a", hard)
    write("resflow-a", hard + 0.5 + 0.1 * torch.randn(1000))
    line = tables.pairs_table([(rows[0], rows[1])]).splitlines()[2]
    gain, error = re.search(r"\| (\S+) ± (\S+), trained once \|$", line).groups()
    assert (gain, float(error)) == ("+0.5000", pytest.approx(0.1 / 1000**0.5, rel=0.1))
    for other in ({"scores": hard[:999]}, {"scores": hard, "seed": 1}):
        write("resflow-a", **other)
        assert "± 0.0500, unpaired, trained once |" in tables.pairs_table([(rows[0], rows[1])])


def test_errors_of_rows_in_groups_are_clustered(tmp_path):
    """In the table, too; other groups are other rows, and are compared as if independent."""
    groups = torch.arange(1000) // 20
    apart = 0.5 + torch.randn(50)[groups] + torch.randn(1000)
    first, second = (row(tmp_path, f"{f}-a", 2.0, groups=50) for f in ("impflow", "resflow"))
    write_scores(first.folder.path, torch.zeros(1000), groups)
    write_scores(second.folder.path, apart, groups)
    _, error, how = leads.lead((first, second))
    known = float(standard_error(apart.double(), groups))
    assert (error, how) == (pytest.approx(known, rel=1e-6), "paired")
    assert known > 3 * float(standard_error(apart))
    line = tables.pairs_table([(first, second)]).splitlines()[2]
    assert line.endswith(f" ± {error:.4f}, level |")
    for others in (groups.flip(0), None):
        write_scores(second.folder.path, apart, others)
        assert leads.lead((first, second))[1:] == (pytest.approx(0.03 * 2**0.5), "unpaired")


def test_a_pair_without_curves_is_left_out_of_the_picture(rows, tmp_path):
    path = tmp_path / "pairs.png"
    tables.draw_pairs(leads.trained_pairs(rows), path)
    assert path.stat().st_size > 1000


@pytest.mark.parametrize("count", [0, 2])
def test_the_picture_has_two_curves_for_each_pair(count, rows, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *arguments: Any, **options: Any) -> None:
        drawn.append(self)
        save(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    for r in rows:
        r.facts = replace(r.facts, curve=tuple(map(tuple, FACTS["curve"])))
    path: Path = tmp_path / "pairs.png"
    tables.draw_pairs(leads.trained_pairs(rows[: 2 * count]), path)
    assert path.stat().st_size > 1000
    curves = [len(ax.lines) for ax in drawn[0].axes]
    assert curves == ([2, 2] * count or [0, 0])
    for ax in drawn[0].axes:
        for line in ax.lines:
            x, y = line.get_data()
            assert list(y) == [-3.0, -2.0]
            assert list(x) in ([100, 1000], [1.0 / 60, 0.1])
