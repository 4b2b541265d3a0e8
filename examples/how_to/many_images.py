"""
Many images, some of them damaged
=================================

Score a folder of images that is larger than memory or disk, and one that has damaged files.

The folder here is made up: two hundred 8x8 digits. The files of two of them end after 40 bytes.
"""

import io
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from datasets import Dataset, Features, Image
from PIL import Image as Picture
from sklearn.datasets import load_digits

from impflow_zoo import ImageConfig, ResFlow, evaluate
from impflow_zoo.data import DataError, LeftOutWarning


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
# Any model of images will do. This one has not been trained.

torch.manual_seed(0)
config = ImageConfig(channels=1, image_size=(8, 8), blocks=(1,), width=8)
model = ResFlow(config).eval()

# %%
# The first damaged file ends an evaluation, in one line that names it: a number over some of the
# rows should not look like one over all.

try:
    evaluate(model, folder.name, "test")
except DataError as error:
    print(error)

# %%
# Leave damaged rows out by ``skip_corrupt=True``. Each is named once, and the result counts them.

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", LeftOutWarning)
    result = evaluate(model, folder.name, "test", skip_corrupt=True)
print(f"{result.value:.4f} bits/dim on {result.n} rows, {result.skipped} left out")
print(caught[0].message)

# %%
# ``streaming=True`` reads a set in order while it is downloaded, and keeps one batch in memory. The
# number is the same, since noise and probes belong to a row, not to its batch. ``limit`` takes the
# first rows, and nothing is fetched beyond them.

with warnings.catch_warnings():
    warnings.simplefilter("ignore", LeftOutWarning)
    streamed = evaluate(model, folder.name, "test", skip_corrupt=True, streaming=True)
    first = evaluate(model, folder.name, "test", skip_corrupt=True, streaming=True, limit=50)
print("streamed:", streamed.value == result.value)
print(f"first rows: {first.value:.4f} bits/dim on {first.n} rows")
folder.cleanup()

# %%
# The score of each row is in ``per_row``: which images does the model find least likely?

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
# The same on the command line: ``impflow-zoo evaluate MODEL --dataset D --streaming
# --skip-corrupt``. Training on damaged images, formats and memory: :doc:`/image-data`.
