"""
Sample a Boltzmann density on a torus
=====================================

A molecule with two angles has the density ``exp(-U) / Z`` on a torus. The energy ``U`` is known, in
units of kT; samples and ``Z`` are not. A flow on the torus is fitted with its own samples, and
importance weights correct its error.
"""

import math

import matplotlib.pyplot as plt
import torch

from impflow_zoo import ImpFlow, TabularConfig


def energy(x):
    phi, psi = torch.deg2rad(x - 120).unbind(dim=-1)
    return -1.5 * phi.cos() - 1.5 * (2 * psi).cos() - (phi - psi).cos()


# %%
# ``periodic`` makes a density that is the same after a full turn. Data are only needed to tell the
# model the range of its columns.

torch.manual_seed(0)
columns = ("phi", "psi")
config = TabularConfig(
    features=2,
    columns=columns,
    periodic=dict.fromkeys(columns, 360),
    blocks=3,
    hidden_features=(32, 32),
)
model = ImpFlow(config)
model.fit_preprocessing(360 * torch.rand(1000, 2))

# %%
# The loss is the reverse Kullback-Leibler divergence, up to ``log Z``. Gradients flow through the
# roots of ``transform.inverse``.

normal = torch.distributions.Normal(0.0, 1.0)


def draw(n):
    z = torch.randn(n, 2)
    x, logabsdet = model.transform.inverse(z)
    return x, normal.log_prob(z).sum(dim=1) - logabsdet


optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for step in range(151):
    x, log_q = draw(256)
    loss = (log_q + energy(x)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 0:
        print(f"step {step}: {loss:.3f} nats")
model.eval()

# %%
# Each sample has the weight ``exp(-U) / q``. The mean of the weights estimates ``Z``, and their
# spread gives the number of effective samples. For two angles a grid gives the exact ``Z``.

with torch.no_grad():
    x, log_q = draw(5000)
log_weights = -energy(x) - log_q
log_z = log_weights.logsumexp(0) - math.log(len(x))
share = (2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp() / len(x)
line = torch.arange(1.0, 360.0, 2.0)
grid = torch.cartesian_prod(line, line)
exact = (-energy(grid)).logsumexp(0) + math.log(4)
print(f"log Z: {log_z:.3f}, exact {exact:.3f}")
print(f"effective samples: {share:.0%}")

# %%
# The density of the model and the true density. Opposite edges are the same line.

with torch.no_grad():
    found = model.log_prob(grid).exp().view(180, 180)
truth = (-energy(grid) - exact).exp().view(180, 180)
figure, axes = plt.subplots(1, 2, figsize=(7, 3.4), layout="constrained")
for ax, values, title in zip(axes, (truth, found), ("exp(-U) / Z", "model"), strict=True):
    ax.pcolormesh(line, line, values.T, vmin=0, vmax=float(truth.max()))
    ax.set(title=title, xlabel="phi, degrees", aspect="equal")
axes[0].set_ylabel("psi, degrees")
plt.show()

# %%
# :doc:`/implicit-flow` proves that a net of sines and cosines gives a bijection of the torus.
