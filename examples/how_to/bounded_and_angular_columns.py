"""
Bounded and angular columns
===========================

Some columns are no plain numbers: a humidity lies between 0 and 100, a wind direction of 359
degrees is next to one of 1. Name the bounds and the periods, and the density keeps to them.
"""

import matplotlib.pyplot as plt
import torch

from impflow_zoo import ImpFlow, TabularConfig

# %%
# Made-up weather: the wind comes from around north, which crosses 0 degrees, and the air is damper
# when the wind comes from the west.

generator = torch.Generator().manual_seed(0)
noise = torch.randn(4000, 2, generator=generator)
wind = (-10 + 40 * noise[:, 0]).remainder(360)
west = -torch.deg2rad(wind).sin()
humidity = 100 * torch.sigmoid(1.5 + 1.5 * west + 0.5 * noise[:, 1])
rows = torch.stack((wind, humidity), dim=1)
train, held_out = rows[:3000], rows[3000:]

# %%
# Names of columns lead to their settings. ``None`` is an open side, as in ``[0, None]``.

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
# The density does not see how often a direction went round, and samples lie within the bounds.

with torch.no_grad():
    turned = held_out + torch.tensor([360.0, 0.0])
    print(f"held out: {model.log_prob(held_out).mean():.3f} nats")
    print("a turn changes", float((model.log_prob(turned) - model.log_prob(held_out)).abs().max()))
samples = model.sample(2000, generator=generator)
for i, name in enumerate(config.columns):
    print(f"{name}: samples from {samples[:, i].min():.2f} to {samples[:, i].max():.2f}")

# %%
# A row outside the bounds has no density. It is refused by the name of its column.

try:
    model.log_prob(torch.tensor([[10.0, 101.0]]))
except ValueError as error:
    print(error)

# %%
# Left and right end of the picture are the same direction: the density goes on across them.

angles, damp = torch.linspace(0.5, 359.5, 120), torch.linspace(0.5, 99.5, 100)
with torch.no_grad():
    density = model.log_prob(torch.cartesian_prod(angles, damp)).exp().view(120, 100)
figure, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
ax.pcolormesh(angles, damp, density.T)
ax.plot(*held_out[:400].T, ".", color="C1", markersize=2)
ax.set(xlabel="wind, degrees", ylabel="humidity, %", title="density and held-out rows")
plt.show()

# %%
# What happens inside, and why the certificate still proves an inverse: :doc:`/columns`.
