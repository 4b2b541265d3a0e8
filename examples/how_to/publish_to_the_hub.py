"""
Publish to the Hub
==================

Check a model's folder and upload it to the Hugging Face Hub. A dry run makes no network request and
counts the files that would be uploaded:

.. code-block:: text

    impflow-zoo publish impflow-power-plant-given-weather --namespace my-name --dry-run

For a model of your own, name its folder, such as ``runs/own``. The code runs this command and shows
what it prints.
"""

import subprocess
import sys

import matplotlib.pyplot as plt

from impflow_zoo.models.registry import zoo_folder

name = "impflow-power-plant-given-weather"
words = f"-m impflow_zoo publish {name} --namespace my-name --dry-run".split()
run = subprocess.run([sys.executable, *words], capture_output=True, text=True)
print(run.stdout, run.stderr)
assert run.returncode == 0

# %%
# Before the upload the weights are checked against their sha256 and their golden batch, the
# certificate is proved again, and the card is compared with the files. Without ``--dry-run`` the
# command needs a token: ``hf auth login``.
#
# The card with this picture is the first page of the model on the Hub.

picture = plt.imread(zoo_folder() / name / "density.png")
figure, ax = plt.subplots(figsize=(7, 2.5), layout="constrained")
ax.imshow(picture)
ax.axis("off")
plt.show()

# %%
# To upload a model without a recipe from Python: ``model.push_to_hub("my-name/my-model")``.
# :doc:`/maintaining` describes all tasks of a maintainer.
