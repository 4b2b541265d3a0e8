"""The benchmark in sbi runs with the real library, small."""

from __future__ import annotations

import math
import re
import sys

import pytest

pytest.importorskip("sbi", reason="sbi is in the extra 'libraries'")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["two-moons", "slcp"])
def test_every_estimator_is_scored(task, tmp_path, monkeypatch, capsys):
    import sbi_tasks

    monkeypatch.chdir(tmp_path)  # sbi writes logs
    few = ["--simulations", "1000", "--patience", "10", "--blocks", "1"]
    monkeypatch.setattr(sys, "argv", ["sbi_tasks.py", task, "maf", "implicit", "residual", *few])
    sbi_tasks.main()
    found = re.findall(rf"{task} (\w+): (-?\d+\.\d+) \+-", capsys.readouterr().out)
    assert [name for name, _ in found] == ["maf", "implicit", "residual"]
    # The prior: a posterior that has learned anything is better.
    prior = {"two-moons": -2 * math.log(2), "slcp": -5 * math.log(6)}[task]
    assert all(float(value) > prior for _, value in found)
