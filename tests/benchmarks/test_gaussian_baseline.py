"""The Gaussian baseline against torch's own Gaussian, in batches and from the command line."""

from __future__ import annotations

import importlib.util
import math
import runpy
from functools import partial
from pathlib import Path
from types import ModuleType

import pandas
import pytest
import torch
from support.checkout import CHECKOUT
from support.command_line import call

from impflow_zoo.data import TableSource
from impflow_zoo.evaluation.standard_errors import standard_error

SCRIPT = CHECKOUT / "benchmarks" / "gaussian_baseline.py"


@pytest.fixture
def baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    spec = importlib.util.spec_from_file_location("gaussian_baseline", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "_BATCH", 70)
    return module


def test_score(baseline: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixing = torch.tensor([[1.0, 0.0], [2.0, 0.5]], dtype=torch.float64)
    rows = {n: torch.randn(n, 2, dtype=torch.float64) @ mixing + 9 for n in (500, 230)}
    folder = tmp_path / "set"
    folder.mkdir()
    for split, values in zip(("train", "test"), rows.values(), strict=True):
        table = pandas.DataFrame(values.numpy(), columns=["a", "b"])
        table.to_parquet(folder / f"{split}.parquet", index=False)
    fitted = torch.distributions.MultivariateNormal(
        rows[500].mean(0), rows[500].T.cov(correction=0)
    )
    scores = fitted.log_prob(rows[230])
    baseline.main(str(folder))
    value, stderr = float(scores.mean()), float(scores.std() / math.sqrt(230))
    assert capsys.readouterr().out == (
        f"{folder} (test): {value:.3f} +- {stderr:.3f} nats, n = 230, fit on 500\n"
    )


def test_the_error_of_rows_in_groups_is_clustered(baseline: ModuleType) -> None:
    rows, groups = torch.randn(90, 2, dtype=torch.float64), torch.arange(90) // 10
    plain = TableSource("rows", rows, "ab")
    grouped = TableSource("rows", rows, "ab", groups=groups)
    fitted = baseline.fit(plain)
    log_prob = torch.distributions.MultivariateNormal(*fitted).log_prob(rows)
    for source, known in ((plain, None), (grouped, groups)):
        value, error = baseline.score(source, *fitted)
        assert value == pytest.approx(float(log_prob.mean()))
        assert error == pytest.approx(float(standard_error(log_prob, known)))


def test_mistake() -> None:
    script = partial(runpy.run_path, str(SCRIPT), run_name="__main__")
    refused = call(script, SCRIPT, "--data", "/nowhere/at/all")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == "impflow-zoo: no such file or folder: /nowhere/at/all\n"
