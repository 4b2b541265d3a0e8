"""What a run says of its cost and progress."""

from __future__ import annotations

import pytest

from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.filenames import LOG, TRAINING
from impflow_zoo.training.facts import TrainingFacts, cut_log, write_line

STATE = {
    "step": 9,
    "rows": 90,
    "seconds": 60.0,
    "hardware": ["a core", "another"],
    "skipped": 1,
    "unconverged": 1.0,
    "logged": 2,
    "curve": [[50, 31.0, 1.25]],
    "seed": 3,
    "init_from": "",
    "data": "0123",
    "before": None,
}


def test_facts_of_a_run_so_far():
    assert TrainingFacts.of(STATE, 130) == TrainingFacts(
        steps=9,
        rows_seen=90,
        minutes=1.0,
        hardware="a core and another",
        skipped_steps=1,
        unconverged_fraction=0.5,
        curve=((50, 31.0, 1.25),),
        seed=3,
        data="0123",
        parameters=130,
    )


def test_a_resumed_run_repeats_what_was_logged_after_its_checkpoint(tmp_path):
    write_line(tmp_path, STATE, validation=1.25)
    kept = (tmp_path / LOG).read_text()
    write_line(tmp_path, STATE, validation=1.5)
    cut_log(tmp_path, len(kept))
    assert (tmp_path / LOG).read_text() == kept
    (tmp_path / LOG).unlink()
    cut_log(tmp_path, len(kept))
    assert (tmp_path / LOG).read_text() == ""


@pytest.mark.parametrize("text", ["", "{", "[]", '{"steps": 3}', '{"repeats": [3]}'])
def test_facts_that_are_damaged(tmp_path, text):
    (tmp_path / TRAINING).write_text(text)
    with pytest.raises(ModelError, match="training.json is damaged"):
        TrainingFacts.read(tmp_path)
