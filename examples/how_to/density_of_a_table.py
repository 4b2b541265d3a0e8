"""
Density of a table
==================

Fit a density to the rows of a table, evaluate it on held-out rows, and draw new rows.

Each row is one hour of a power plant, in the units of the data: temperature (AT, degrees Celsius),
exhaust vacuum (V, cm Hg), pressure (AP, mbar), humidity (RH, %) and electrical output (PE, MW).
The data are from the `UCI repository
<https://archive.ics.uci.edu/dataset/294/combined+cycle+power+plant>`_ (CC BY 4.0) and come with the
package.
"""

import matplotlib.pyplot as plt
import torch

from impflow_zoo import ImpFlow, TabularConfig, create_model
from impflow_zoo.data import open_table
from impflow_zoo.models.registry import zoo_folder

torch.manual_seed(0)
table = open_table(zoo_folder() / "impflow-power-plant" / "test.parquet")
rows = table.rows(torch.randperm(len(table))).float()
train, held_out = rows[:750], rows[750:]
print(table.columns, tuple(train.shape), tuple(held_out.shape))

# %%
# A model has a class and a config. With ``whiten`` its first layer is a linear map that
# decorrelates the columns. ``fit_preprocessing`` computes the mean and scale of the columns. Small
# tables need weight decay: without it the flow overfits the 750 rows.

config = TabularConfig(features=5, blocks=2, hidden_features=(32, 32), whiten=True, lipschitz=0.97)
model = ImpFlow(config)
model.fit_preprocessing(train)
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.2)
for step in range(151):
    loss = -model.log_prob(train[torch.randint(len(train), (250,))]).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 0:
        print(f"step {step}: {-loss:.2f} nats")
model.eval()

# %%
# The score is the mean log-density of the held-out rows, in nats. It is compared with a Gaussian
# that has the mean and covariance of the training rows.

gaussian = torch.distributions.MultivariateNormal(train.mean(0), train.T.cov())
with torch.no_grad():
    scores = model.log_prob(held_out)
print(f"flow:     {scores.mean():.2f} +- {scores.std() / len(scores) ** 0.5:.2f} nats")
print(f"Gaussian: {gaussian.log_prob(held_out).mean():.2f} nats")

# %%
# Samples are also in the units of the data. ``create_model`` loads the model of the zoo, which was
# trained on ten times as many rows.

zoo = create_model("impflow-power-plant")
generator = torch.Generator().manual_seed(0)
shown = {
    "held-out rows": held_out,
    "samples, this model": model.sample(len(held_out), generator=generator),
    "samples, the zoo's": zoo.sample(len(held_out), generator=generator),
}
figure, axes = plt.subplots(1, 3, figsize=(9, 3), sharex=True, sharey=True, layout="constrained")
for ax, (title, points) in zip(axes, shown.items(), strict=True):
    ax.plot(points[:, 0], points[:, 4], ".", markersize=3)
    ax.set(title=title, xlabel="AT, degrees Celsius")
axes[0].set_ylabel("PE, MW")
plt.show()

# %%
# :doc:`/your-own-data` shows how to train on a file, with validation, checkpoints and a card.
