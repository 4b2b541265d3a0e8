"""
Several processes
=================

Train with several processes, on several GPUs or CPUs. They share each batch and take the steps that
one process would take, so a recipe does not change.

A launcher starts the processes: ``torchrun``, or ``accelerate launch`` (extra ``train``). The
commands are the same as for one process.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

recipe = """
model: ImpFlow
config: {kind: tabular, features: 2, blocks: 2, hidden_features: [32, 32]}
data: {dataset: toy:moons, train_rows: 2000}
training: {steps: 60, batch_size: 256, learning_rate: 1.0e-2, validate_every: 20, log_every: 5}
"""
folder = tempfile.TemporaryDirectory()
file = Path(folder.name) / "recipe.yaml"
file.write_text(recipe)


def train(name, *launcher):
    command = [
        sys.executable,
        *launcher,
        "-m",
        "impflow_zoo",
        "train",
        file,
        "--out",
        file.parent / name,
    ]
    ended = subprocess.run(
        [str(word) for word in command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    lines = (file.parent / name / "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


one = train("one")
two = train("two", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")

# %%
# Both logs have the same steps, up to the rounding of sums that are added in another order.

figure, ax = plt.subplots(figsize=(5, 3), layout="constrained")
for log, label, line in ((one, "one process", "-"), (two, "two processes", "o")):
    steps = [entry for entry in log if "log_likelihood" in entry]
    ax.plot([e["step"] for e in steps], [e["log_likelihood"] for e in steps], line, label=label)
ax.set(xlabel="step", ylabel="training value, nats")
ax.legend(frameon=False)
plt.show()
folder.cleanup()
print(sorted({key for entry in one for key in entry}))

# %%
# ``evaluate`` is started the same way and shares its rows; the score does not depend on how many
# processes there are. How gradients are added up: :doc:`/your-own-data`.
