"""Fixtures of all tests: seeds, devices, hypothesis."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings
from support.checkout import CHECKOUT
from support.command_line import Run, command

# The laboratory's own tests go with it.
collect_ignore = [] if (CHECKOUT / "benchmarks").is_dir() else ["benchmarks"]
pytest_plugins = ["support.command_models", "support.dealt", "support.whole_run"]
settings.register_profile("default", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("default")


def pytest_configure() -> None:
    """Side by side (`-n`), each process takes one thread, and so do those that it starts."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """What there is stays to the end: looking for garbage in it would take seconds."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
        ),
    ]
)
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Every device there is; the others are skipped."""
    return torch.device(request.param)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Call the command line in this process."""
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "0")  # commands leave this process's alone
    return command
