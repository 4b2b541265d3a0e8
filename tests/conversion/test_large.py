"""A checkpoint of the size of the published CIFAR-10 model converts within 2 GB of memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from support.checkout import CHECKOUT
from support.checkpoints import write
from support.published_models import IMAGE, Published

from impflow_zoo import ResFlow

CODE = """
import sys
from support.peak_memory import peak_memory
from conversion.__main__ import main
try:
    main()
except SystemExit as end:
    assert not end.code
print("peak", peak_memory())
"""


@pytest.mark.slow
@pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "zip"])
def test_a_full_size_model_converts_within_two_gigabytes(legacy, tmp_path):
    args = {**IMAGE, "imagesize": 32, "idim": 512, "nblocks": "16-16-16", "coeff": 0.98}
    args |= {"fc_end": True, "fc_idim": 128}
    model = Published(args, implicit=False, shape=(3, 32, 32))
    names = ("weight", "bias", "beta")
    averaged = {k: v for k, v in model.state.items() if k.rpartition(".")[2] in names}
    path = write(tmp_path / "full.pth", args, model.state, averaged, legacy=legacy)
    del model, averaged
    run = subprocess.run(
        [sys.executable, "-c", CODE, str(path), str(tmp_path / "out")],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": f"{CHECKOUT}{os.pathsep}{CHECKOUT / 'tests'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    peak = float(run.stdout.split("peak")[1])
    assert "ResFlow with 52 blocks" in run.stdout
    assert "\n25," in run.stdout
    assert peak < 2e9, f"{peak / 1e9:.2f} GB"
    loaded = ResFlow.from_pretrained(tmp_path / "out")
    assert sum(p.numel() for p in loaded.parameters()) > 25e6
    with torch.no_grad():
        assert loaded.encode(torch.rand(1, 3, 32, 32)).isfinite().all()
    print(run.stdout)
