"""The Gaussian baseline against torch's own Gaussian, in batches and from the command line."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import pandas
import pytest
import torch
from support.checkout import CHECKOUT

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


def test_score(
    baseline: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
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
    monkeypatch.setattr("sys.argv", ["gaussian_baseline.py", "--data", str(folder)])
    assert baseline.main() == 0
    value, stderr = float(scores.mean()), float(scores.std() / math.sqrt(230))
    assert capsys.readouterr().out == (
        f"{folder} (test): {value:.3f} +- {stderr:.3f} nats, n = 230, fit on 500\n"
    )


def test_mistake(
    baseline: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gaussian_baseline.py", "--data", "/nowhere/at/all"])
    assert baseline.main() == 2
    assert capsys.readouterr().err == "error: no such file or folder: /nowhere/at/all\n"
