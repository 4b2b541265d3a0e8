"""
Is this row unusual?
====================

Compare the density of a row with those of held-out rows, and know what the answer does not say.

A row is unusual for a model if few held-out rows are as unlikely. This fraction is a p-value:
among rows like the training rows, one in twenty is below 5 %. The rows are hours of a power plant
(`UCI <https://archive.ics.uci.edu/dataset/294/combined+cycle+power+plant>`_, CC BY 4.0).
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from impflow_zoo import create_model
from impflow_zoo.models.registry import zoo_folder

model = create_model("impflow-power-plant")
held_out = pd.read_parquet(zoo_folder() / "impflow-power-plant" / "test.parquet")

# %%
# Scores of rows that the model has not seen. Scores of training rows are too high, and a threshold
# from them calls too many new rows unusual. ``log_prob_with_error`` answers ``-inf`` where a row is
# so far out that its density is zero in float32; ``log_prob`` would refuse it.


def scores(rows: pd.DataFrame) -> np.ndarray:
    with torch.no_grad():
        return model.log_prob_with_error(rows)[0].numpy()


reference, fresh = np.sort(scores(held_out[:473])), held_out[473:]


def p_value(rows: pd.DataFrame) -> np.ndarray:
    """The fraction of held-out rows whose density is as low or lower; never zero."""
    return (1 + np.searchsorted(reference, scores(rows), side="right")) / (1 + len(reference))


print(f"new rows below 5 %: {(p_value(fresh) < 0.05).mean():.1%}")

# %%
# Three rows: an ordinary one; one whose values are all ordinary, but not together (the output of a
# cold day on a hot one); and one far from everything.

rows = held_out[:1].loc[[0, 0, 0]].reset_index(drop=True)
rows.loc[1, "AT"] = 35 - rows.loc[1, "AT"]
rows.loc[2] += 1e4
for name, p in zip(("ordinary", "not together", "far"), p_value(rows), strict=True):
    print(f"{name:13} p = {p:.3f}")

# %%
# What this does not say:
#
# - *Low density is not the same as wrong.* It depends on units: after a logarithm of a column other
#   rows are the least dense ones. Choose columns in which equal differences mean equally much.
# - *High density is not the same as usual.* With many columns the row of the highest density, in
#   the middle, is far denser than any row that occurs. Look at both tails of the scores.
# - *A model of all columns answers for all columns.* A small defect in one of fifty hides in the
#   noise of the others. If you know what may be wrong, model this column given the others
#   (``--given``), and look at its quantiles.
# - *Far from the training rows the model extrapolates.* Such scores order rows badly; "far" is all
#   that they say. Columns that were left out are not looked at.
# - *p-values hold for rows like the held-out ones*: independent, of the same time and place. Rows
#   in groups need groups held out. Of 1,000 usual rows, 50 are below 5 %.

figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
axes.hist(reference, 60)
for x, name in zip(scores(rows[:2]), ("ordinary", "not together"), strict=True):
    at = max(x, reference[0] - 10)
    axes.axvline(at, color="k", linewidth=1)
    axes.text(at, 1.02, name, transform=axes.get_xaxis_transform(), ha="center")
axes.axvline(np.quantile(reference, 0.05), color="C1", label="5 %")
axes.set(xlabel="log-density, nats", ylabel="held-out rows")
axes.legend(loc="center")
plt.show()
