"""What it costs to import the package and to load a small model.

Run:
    pytest benchmarks/test_startup.py -o addopts=
"""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from impflow_zoo import create_model

pytest.importorskip("pytest_benchmark")

# What the package builds on, as far as it uses it; the clock starts when they are there.
_BELOW = """
import torch, torch.func, nflows.flows, nflows.transforms, nflows.distributions
from huggingface_hub import EvalResult, ModelCard, PyTorchModelHubMixin, hf_hub_download
import time
start = time.perf_counter()
import impflow_zoo
print(time.perf_counter() - start)
"""


def _own_share() -> float:
    """Seconds of the import in a fresh process, beyond what is below the package."""
    run = subprocess.run([sys.executable, "-c", _BELOW], capture_output=True, text=True, check=True)
    return float(run.stdout)


@pytest.mark.benchmark(group="startup")
def test_import(benchmark):
    """A process that imports the package, whose own share is 0.2 s at most."""
    shares: list[float] = []
    benchmark.pedantic(lambda: shares.append(_own_share()), rounds=3)
    benchmark.extra_info["own_share_seconds"] = min(shares)
    assert min(shares) < 0.2


@pytest.mark.benchmark(group="startup")
def test_load(benchmark):
    """A small model that is on disk: 1 s at most."""
    benchmark.pedantic(create_model, ("impflow-power-plant",), rounds=5, warmup_rounds=1)
    start = time.perf_counter()
    create_model("impflow-power-plant")
    assert time.perf_counter() - start < 1
