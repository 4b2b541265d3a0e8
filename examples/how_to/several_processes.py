"""
Train with several processes
============================

Train with several processes, on several GPUs or CPUs. The processes share each batch and take the
same steps as one process, so the recipe stays the same.

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
training: {steps: 60, batch_size: 256, learning_rate: 1.0e-2, log_every: 5}
"""
folder = tempfile.TemporaryDirectory()
file = Path(folder.name) / "recipe.yaml"
file.write_text(recipe)


def train(name, *launcher):
    words = [*launcher, "-m", "impflow_zoo", "train", str(file), "--out", str(file.parent / name)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *words]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    lines = (file.parent / name / "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


one = train("one")
two = train("two", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")

# %%
# Both logs show the same steps, up to rounding errors of sums in a different order.

figure, ax = plt.subplots(figsize=(5, 3), layout="constrained")
for log, label, line in ((one, "one process", "-"), (two, "two processes", "o")):
    entries = [entry for entry in log if "log_density" in entry]
    steps, values = zip(*((e["step"], e["log_density"]) for e in entries), strict=True)
    ax.plot(steps, values, line, label=label)
ax.set(xlabel="step", ylabel="training value, nats")
ax.legend(frameon=False)
plt.show()
folder.cleanup()

# %%
# ``impflow-zoo evaluate`` is started in the same way and shares its rows; in Python,
# ``evaluate(model, processes=together())`` does, with
# ``impflow_zoo.evaluation.processes.together``. The score does not depend on the number of
# processes. :doc:`/settings` names the other options of a training.
#
# In your own loop with ``DistributedDataParallel``, call the model on training rows before you wrap
# it. Its layers that start from data, such as ``ActNorm``, then start alike in all processes.
