"""The how-tos run as they are printed, and arrive. The build of the site runs them as well."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.checkout import CHECKOUT

pytest.importorskip("matplotlib")

FOLDER = CHECKOUT / "examples" / "how_to"
SCRIPTS = sorted(FOLDER.glob("*.py"))
# What a script prints where it arrives.
ARRIVES = {
    "density_of_a_table": r"flow: +-1[56]\.\d\d",  # a Gaussian: -16.65
    "scikit_learn_estimators": r"flow: +-1[56]\.\d\d[^\n]*\nkernel density: -16\.5",
    "unusual_rows": r"ordinary +p = 0\.[2-4]\d\d\nnot together +p = 0\.00",
    "regions_and_quantiles": r"90 % interval: (8[5-9]|9[0-4])\.\d%",
    "variational_inference": r"reverse KL: (-0\.0|0\.0|0\.1[0-4])",
    "images_from_blocks": r"held out: [12]\.\d\d bits",  # a uniform density: 4.09
    "many_images": r"198 rows, 2 left out\n[^\n]*row 30: .*\nstreamed: True",
    "boltzmann_on_a_torus": r"effective samples: [89]\d%",
    "certify_an_inverse": r"6 nets, margin 0\.0300",
    "own_net": r"largest local norm: 0\.",
    "own_block": r"\d\d passed",
    "torch_tools": r"ResFlow: exported, .* (0e\+00|\de-1\d)\nEncode: exported, .* (0e\+00|\de-1\d)",
    "publish_to_the_hub": r"impflow-power-plant-given-weather",
    "sbi_posterior": r"held-out log q\(theta \| x\): [23]\.\d\d",  # the prior: -1.39
    "pyro_guide": r"gap 0\.[01]\d",
    "deepinv_denoising": r"PSNR: 20\.\d dB with noise, 2[5-7]\.\d dB",
}


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_how_to_runs_as_it_is_printed(script: Path) -> None:
    library, found, _ = script.stem.partition("_")
    if found and library in ("sbi", "pyro", "deepinv"):
        pytest.importorskip(library, reason=f"{library} is in the extra 'libraries'")
    run = subprocess.run(
        [sys.executable, "-W", "ignore", script],
        cwd=CHECKOUT,  # the site's build runs scripts in their own folder
        env={**os.environ, "MPLBACKEND": "agg", "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert re.search(ARRIVES.get(script.stem, ""), run.stdout), run.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_how_to_has_a_title_and_a_picture(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    title, line, empty, *_ = (ast.get_docstring(ast.parse(text)) or "").splitlines()
    assert line == "=" * len(title)
    assert not empty
    assert "plt.show()" in text
