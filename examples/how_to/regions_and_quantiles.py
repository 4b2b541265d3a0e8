"""
How likely is a region, and which values are likely?
====================================================

Estimate the probability of a region of a table from samples, and read off quantiles of a column,
alone or given others.

The rows are hours of a power plant
(`UCI <https://archive.ics.uci.edu/dataset/294/combined+cycle+power+plant>`_, CC BY 4.0).
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from impflow_zoo import create_model
from impflow_zoo.models.registry import zoo_folder

torch.manual_seed(0)
held_out = pd.read_parquet(zoo_folder() / "impflow-power-plant" / "test.parquet").astype(float)
model = create_model("impflow-power-plant")

# %%
# **A region.** The fraction ``p`` of samples within it has the standard error
# ``sqrt(p (1 - p) / n)``. It leaves out what the model itself gets wrong, so compare with the
# fraction of held-out rows, which has an error of its own. Where no sample hits, ``p`` is
# probably below ``3 / n``.


def within(rows: pd.DataFrame) -> np.ndarray:
    return ((rows["AT"] > 25) & (rows["PE"] > 440)).to_numpy()


drawn = model.sample(20_000, as_frame=True, rounded=True)
for name, rows in (("samples", drawn), ("held-out rows", held_out)):
    p, n = within(rows).mean(), len(rows)
    print(f"warm and above 440 MW, {name:13}: {p:.4f} +- {(p * (1 - p) / n) ** 0.5:.4f}")

# %%
# **Quantiles of a column** are those of its samples.

print(drawn["PE"].quantile([0.05, 0.5, 0.95]).round(1).to_dict())

# %%
# **Given other columns**, take a model of the density given them, which ``fit(..., given=...)``
# trains as well. Here each row of a DataFrame of weather gets 500 samples of the output.

given = create_model("impflow-power-plant-given-weather")
weather = held_out[list(given.config.context_columns)]
outputs = given.sample(500, weather)[..., 0].double()  # [rows, 500]
low, high = outputs.quantile(torch.tensor([0.05, 0.95], dtype=torch.float64), dim=1).numpy()
table = weather.assign(low=low, high=high, PE=held_out["PE"])
print(table[:3].round(1).to_string(index=False))
inside = table["PE"].between(low, high).mean()
print(f"within their 90 % interval: {inside:.1%} of {len(table)} hours")

order = table.sort_values("low")
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
left.scatter(drawn["AT"][:3000], drawn["PE"][:3000], s=2, label="samples")
left.scatter(held_out["AT"], held_out["PE"], s=2, label="held-out rows")
left.plot([25, 25, 40], [495, 440, 440], color="black")
left.set(xlabel="AT, degrees Celsius", ylabel="PE, MW", title="the region, upper right")
left.legend()
right.fill_between(range(len(order)), order["low"], order["high"], alpha=0.4)
right.plot(order["PE"].to_numpy(), ".", color="C1", markersize=3)
right.set(
    xlabel="hours, in the order of the lower end", title="90 % intervals of PE given the weather"
)
plt.show()

# %%
# With the interface of scikit-learn, ``FlowRegressor(...).predict_quantiles(X, q)`` does the same.
