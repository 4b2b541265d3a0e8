"""
Bounded and angular columns
===========================

Some columns are not plain numbers: a humidity lies between 0 and 100, and a wind direction of 359
degrees is close to 1 degree. State the bounds and the periods, and the density respects them.
"""

import matplotlib.pyplot as plt
import torch

from impflow_zoo import ImpFlow, TabularConfig

# %%
# The data are simulated weather. The wind comes from around north, which includes 0 degrees, and
# west winds are more humid.

generator = torch.Generator().manual_seed(0)
noise = torch.randn(4000, 2, generator=generator)
wind = (-10 + 40 * noise[:, 0]).remainder(360)
west = -torch.deg2rad(wind).sin()
humidity = 100 * torch.sigmoid(1.5 + 1.5 * west + 0.5 * noise[:, 1])
rows = torch.stack((wind, humidity), dim=1)
train, held_out = rows[:3000], rows[3000:]

# %%
# Settings are given by the name of a column. ``None`` stands for no bound, as in ``[0, None]``.

torch.manual_seed(0)
config = TabularConfig(
    features=2,
    columns=("wind", "humidity"),
    periodic={"wind": 360},
    bounds={"humidity": (0, 100)},
    blocks=2,
    hidden_features=(32, 32),
)
model = ImpFlow(config)
model.fit_preprocessing(train)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for _ in range(150):
    loss = -model.log_prob(train[torch.randint(len(train), (256,))]).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
model.eval()

# %%
# The density is the same after a full turn, and samples lie within the bounds.

with torch.no_grad():
    turned = held_out + torch.tensor([360.0, 0.0])
    print(f"held out: {model.log_prob(held_out).mean():.3f} nats")
    change = (model.log_prob(turned) - model.log_prob(held_out)).abs().max()
    print(f"a turn changes at most {change:.0e} nats")
samples = model.sample(2000, generator=generator)
for i, name in enumerate(config.columns):
    print(f"{name}: samples from {samples[:, i].min():.2f} to {samples[:, i].max():.2f}")

# %%
# A row outside the bounds is an error. The message names the column.

try:
    model.log_prob(torch.tensor([[10.0, 101.0]]))
except ValueError as error:
    print(error)

# %%
# The left and right edges of the picture are the same direction. The density is continuous there.

angles, damp = torch.linspace(0.5, 359.5, 120), torch.linspace(0.5, 99.5, 100)
with torch.no_grad():
    density = model.log_prob(torch.cartesian_prod(angles, damp)).exp().view(120, 100)
figure, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
ax.pcolormesh(angles, damp, density.T)
ax.plot(*held_out[:400].T, ".", color="C1", markersize=2)
ax.set(xlabel="wind, degrees", ylabel="humidity, %", title="density and held-out rows")
plt.show()

# %%
# :doc:`/columns` explains the transforms. :doc:`/implicit-flow` proves that the certificate holds
# for angles.
