"""
Conditional density
===================

Predict the distribution of one column given others: the electrical output of a power plant (PE,
MW) given the weather.

The model is ``impflow-power-plant-given-weather``. Its context has four columns in their own units:
temperature (AT), vacuum (V), pressure (AP) and humidity (RH).
"""

import matplotlib.pyplot as plt
import torch

from impflow_zoo import create_model, evaluate
from impflow_zoo.data import open_table
from impflow_zoo.models.registry import zoo_folder

name = "impflow-power-plant-given-weather"
model = create_model(name)
print("density of", model.config.columns, "given", model.config.context_columns)

# %%
# ``log_prob(x, context)`` takes one context per row. To draw a density curve, pass the same context
# for every point.

weather = torch.tensor(
    [[8.0, 40.0, 1020.0, 75.0], [20.0, 55.0, 1012.0, 70.0], [30.0, 70.0, 1008.0, 60.0]]
)
power = torch.linspace(420, 495, 300)[:, None]
figure, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
with torch.no_grad():
    for row in weather:
        density = model.log_prob(power, row.expand(len(power), -1)).exp()
        ax.plot(power, density, label=f"{row[0]:.0f} degrees Celsius")
ax.set(xlabel="PE, MW", ylabel="density, 1 / MW")
ax.legend(frameon=False)
plt.show()

# %%
# ``sample(n, context)`` draws ``n`` values for each context, with shape ``(contexts, n, columns)``.

samples = model.sample(1000, weather, generator=torch.Generator().manual_seed(0))
print(tuple(samples.shape))
for row, values in zip(weather, samples, strict=True):
    low, middle, high = values[:, 0].quantile(torch.tensor([0.05, 0.5, 0.95]))
    print(f"{row[0]:.0f} degrees: {middle:.1f} MW, nine in ten between {low:.1f} and {high:.1f}")

# %%
# Are the predictive intervals right? ``evaluate`` scores the held-out rows that ship with the
# model. It reports the log-density, the error of the predicted mean, the CRPS, and the fraction of
# rows within the central intervals.

result = evaluate(model, limit=300)
print(f"{result.value:.3f} +- {result.stderr:.3f} nats on {result.n} rows")
print(result.predictive[0])

# %%
# The picture shows the measured values and the intervals, sorted by temperature.

columns = [*model.config.columns, *model.config.context_columns]
table = open_table(zoo_folder() / name / "test.parquet", columns=columns)
rows = table.rows(range(60)).float()
rows = rows[rows[:, 1].argsort()]
drawn = model.sample(300, rows[:, 1:], generator=torch.Generator().manual_seed(1))[..., 0]
low, high = drawn.quantile(torch.tensor([0.05, 0.95]), dim=1)
figure, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
ax.fill_between(range(60), low, high, alpha=0.3, label="nine in ten")
ax.plot(rows[:, 0], "k.", label="measured")
ax.set(xlabel="hours, by temperature", ylabel="PE, MW")
ax.legend(frameon=False)
plt.show()

# %%
# To train your own conditional model see :doc:`/your-own-data`, section *Contexts*.
