"""
Publish to the Hub
==================

Check a model's folder and upload it to the Hugging Face Hub. A dry run makes no request: it shows
what would be sent.
"""

import subprocess
import sys

import matplotlib.pyplot as plt

from impflow_zoo.registry import zoo_folder

name = "impflow-power-plant-given-weather"
words = f"-m impflow_zoo publish {name} --namespace my-name --dry-run".split()
run = subprocess.run([sys.executable, *words], capture_output=True, text=True)
print(run.stdout, run.stderr)
assert run.returncode == 0

# %%
# Before a byte leaves, the weights are checked against their sha256 and their golden batch, the
# certificate is proved again, and the card is compared with the files. Without ``--dry-run`` the
# command needs a token: ``hf auth login``.
#
# What a visitor of the page sees first is the card with this picture.

picture = plt.imread(zoo_folder() / name / "density.png")
figure, ax = plt.subplots(figsize=(7, 2.5), layout="constrained")
ax.imshow(picture)
ax.axis("off")
plt.show()

# %%
# From Python, for a model without a recipe: ``model.push_to_hub("my-name/my-model")``. Everything a
# maintainer does: :doc:`/maintaining`.
