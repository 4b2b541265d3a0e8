"""What is read of a run: whole logs, cut ones, and none."""

from __future__ import annotations

import json

import pytest

from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.folder import TRAINING
from impflow_zoo.training.facts import TrainingFacts, read_log

LINES = [
    {"step": 0, "rows_seen": 0, "seconds": 0.0, "hardware": "a core", "seed": 3},
    {"step": 5, "rows_seen": 50, "seconds": 30.0, "unconverged": 0.5, "skipped": 1},
    {"step": 5, "rows_seen": 50, "seconds": 31.0, "validation": 1.25},
    {"step": 9, "rows_seen": 90, "seconds": 60.0, "validation": None},
]
TEXT = "".join(json.dumps(line) + "\n" for line in LINES)


@pytest.mark.parametrize("cut", ["", '{"step": 10, "rows_s', "{}\n", "[1]\n"])
def test_a_log_whose_last_line_is_cut(tmp_path, cut):
    (tmp_path / "log.jsonl").write_text(TEXT + cut)
    assert read_log(tmp_path / "log.jsonl") == TrainingFacts(
        steps=9,
        rows_seen=90,
        minutes=1.0,
        hardware="a core",
        skipped_steps=1,
        unconverged_fraction=0.5,
        curve=((50, 31.0, 1.25),),
        seed=3,
    )


@pytest.mark.parametrize("text", ["", "{"])
def test_a_log_that_says_nothing(tmp_path, text):
    (tmp_path / "log.jsonl").write_text(text)
    with pytest.raises(ModelError, match="log.jsonl holds no line of a training"):
        read_log(tmp_path / "log.jsonl")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"steps": 3}', '{"repeats": [3]}'])
def test_facts_that_are_damaged(tmp_path, text):
    (tmp_path / TRAINING).write_text(text)
    with pytest.raises(ModelError, match="training.json is damaged: stage the model from its run"):
        TrainingFacts.read(tmp_path)
