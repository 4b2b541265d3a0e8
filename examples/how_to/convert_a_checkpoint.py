"""
Convert a checkpoint
====================

Turn a checkpoint of the public code of Implicit Normalizing Flows or Residual Flows into a model of
this package. The code in a pickle is never run.

The checkpoint was trained with the public toy script and is part of the tests. They compare every
conversion with the outputs of the public code.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from impflow_zoo import create_model

here = Path.cwd()
root = next(path for path in (here, *here.parents) if (path / "conversion").is_dir())
sys.path.insert(0, str(root / "tests"))
from support.checkpoints import write_fixture  # noqa: E402

folder = tempfile.TemporaryDirectory()
checkpoint = write_fixture(Path(folder.name), "toy_impflow")
print(checkpoint.name, f"{checkpoint.stat().st_size / 1e3:.0f} kB")

# %%
# One command converts the checkpoint. Run it in a checkout. ``--verify`` checks the result.

out = Path(folder.name) / "converted"
command = [sys.executable, "-m", "conversion", checkpoint, out, "--verify"]
run = subprocess.run(command, cwd=root, capture_output=True, text=True)
print(run.stdout, run.stderr)

# %%
# The folder is a model like all others.

model = create_model(out)
line = torch.linspace(-4, 4, 100)
with torch.no_grad():
    density = model.log_prob(torch.cartesian_prod(line, line)).exp().view(100, 100)
samples = model.sample(1000, generator=torch.Generator().manual_seed(0))
folder.cleanup()
figure, axes = plt.subplots(1, 2, figsize=(7, 3.4), layout="constrained")
axes[0].pcolormesh(line, line, density.T)
axes[0].set(title="density", aspect="equal")
axes[1].plot(*samples.T, ".", markersize=2)
axes[1].set(title="samples", xlim=(-4, 4), ylim=(-4, 4), aspect="equal")
plt.show()

# %%
# :doc:`/project/conversion` says which checkpoints can be converted and how accurate the result is.
