"""
Evaluate many images, some of them damaged
==========================================

Evaluate a model on more images than fit into memory or on disk, and on a folder with damaged files.

The example folder holds two hundred 8x8 digits. Two of the files are cut off after 40 bytes.
"""

import io
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from datasets import Dataset, Features, Image, disable_progress_bars
from PIL import Image as Picture
from sklearn.datasets import load_digits

from impflow_zoo import ImageConfig, ResFlow, evaluate
from impflow_zoo.data import DataError, LeftOutWarning

disable_progress_bars()


def encoded(pixels):
    data = io.BytesIO()
    Picture.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


digits = (load_digits().images[:200] * 15.9).astype("uint8")
files = [encoded(pixels) for pixels in digits]
for row in (30, 120):
    files[row] = files[row][:40]
folder = tempfile.TemporaryDirectory()
rows = [{"bytes": file, "path": None} for file in files]
table = Dataset.from_dict({"image": rows}, features=Features(image=Image()))
table.to_parquet(Path(folder.name) / "test.parquet")

# %%
# Any image model can be used. This model is untrained.

torch.manual_seed(0)
config = ImageConfig(channels=1, image_size=(8, 8), blocks=(1,), width=8)
model = ResFlow(config).eval()

# %%
# By default the first damaged file stops the evaluation with a message that names it. So a score on
# a part of the rows cannot be mistaken for a score on all rows.

try:
    evaluate(model, folder.name, "test")
except DataError as error:
    print(error)

# %%
# With ``skip_corrupt=True`` damaged rows are left out. A warning names each, and the result counts
# them.

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", LeftOutWarning)
    result = evaluate(model, folder.name, "test", skip_corrupt=True)
print(f"{result.value:.4f} bits/dim on {result.n} rows, {result.skipped} left out")
print(caught[0].message)

# %%
# ``streaming=True`` evaluates a set while it is downloaded and keeps one batch in memory. The score
# is the same, because the noise and the probes of a row do not depend on its batch. ``limit`` uses
# the first rows and downloads no later files.

with warnings.catch_warnings():
    warnings.simplefilter("ignore", LeftOutWarning)
    streamed = evaluate(model, folder.name, "test", skip_corrupt=True, streaming=True)
    first = evaluate(model, folder.name, "test", skip_corrupt=True, streaming=True, limit=50)
print("streamed:", streamed.value == result.value)
print(f"first rows: {first.value:.4f} bits/dim on {first.n} rows")
folder.cleanup()

# %%
# ``per_row`` holds the score of each row. The picture shows the most and the least likely images.

good = [row for row in range(200) if row not in (30, 120)]
order = result.per_row.argsort()
chosen = [good[i] for i in [*order[:8], *order[-8:]]]
figure, axes = plt.subplots(2, 8, figsize=(7, 2.2), layout="constrained")
for ax, row in zip(axes.flat, chosen, strict=True):
    ax.imshow(digits[row], cmap="gray")
    ax.set(xticks=[], yticks=[])
axes[0, 0].set_ylabel("fewest bits")
axes[1, 0].set_ylabel("most bits")
plt.show()

# %%
# On the command line: ``impflow-zoo evaluate MODEL --dataset D --streaming --skip-corrupt``.
# :doc:`/image-data` covers training on damaged images, file formats and memory.
