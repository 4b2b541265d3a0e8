"""
Use a flow as a guide in Pyro
=============================

In Pyro a flow can be the guide of variational inference, or a part of a model. ``impflow_zoo.zuko``
makes a block a part of a zuko flow. Pyro finds the parameters of an ``nn.Module``, so the flow is
registered as a module. Tested with Pyro 1.9, zuko 1.6 and torch 2.13.

.. image:: /pictures/pyro-guide.png
   :alt: the posterior on a grid, and samples of the guide on it
"""

# sphinx_gallery_thumbnail_path = 'pictures/pyro-guide.png'

import math

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
import zuko
from pyro.contrib.zuko import ZukoToPyro
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam

from impflow_zoo import ImpFlowTransform, SandwichMLP
from impflow_zoo.zuko import LazyBlock

# %%
# The model has two parameters, but the data depend only on ``a^2 + b``: the posterior is
# banana-shaped.

data = torch.tensor([1.1, 0.8, 1.0, 1.3, 0.9])


def model():
    theta = pyro.sample("theta", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    mean = theta[..., 0] ** 2 + theta[..., 1]
    with pyro.plate("data", len(data)):
        pyro.sample("x", dist.Normal(mean, 0.3), obs=data)


# %%
# ``LazyBlock`` puts a block into a zuko ``Flow``, and Pyro's ``ZukoToPyro`` puts the flow into a
# guide.

pyro.set_rng_seed(0)


def block():
    return LazyBlock(ImpFlowTransform(*(SandwichMLP(2, (32, 32)) for _ in range(2))))


base = zuko.lazy.UnconditionalDistribution(
    zuko.distributions.DiagNormal, torch.zeros(2), torch.ones(2), buffer=True
)
flow = zuko.lazy.Flow([block() for _ in range(3)], base)


def guide():
    pyro.module("flow", flow)
    pyro.sample("theta", ZukoToPyro(flow()))


elbo = Trace_ELBO(num_particles=128, vectorize_particles=True, max_plate_nesting=1)
svi = SVI(model, guide, Adam({"lr": 5e-3}), elbo)
losses = [svi.step() for _ in range(300)]

# %%
# For two parameters a grid gives the exact evidence. The evidence lower bound is smaller by the
# Kullback-Leibler divergence of the guide from the posterior.

line = torch.linspace(-3, 3, 241)
grid = torch.cartesian_prod(line, line)
log_joint = dist.Normal(0.0, 1.0).log_prob(grid).sum(dim=1)
mean = grid[:, 0] ** 2 + grid[:, 1]
log_joint = log_joint + dist.Normal(mean[:, None], 0.3).log_prob(data).sum(dim=1)
evidence = log_joint.logsumexp(0) + 2 * math.log(line[1] - line[0])
found = -sum(losses[-20:]) / 20
print(f"evidence {evidence:.3f} nats, lower bound {found:.3f}, gap {evidence - found:.3f}")

with torch.no_grad():
    samples = flow().sample((500,))
figure, ax = plt.subplots(figsize=(4.2, 3.8), layout="constrained")
joint = log_joint.exp().view(241, 241)
ax.contour(line, line, joint.T, levels=joint.max() * torch.linspace(0.05, 0.95, 6), linewidths=0.8)
ax.plot(*samples.T, ".", markersize=2)
ax.set(xlabel="a", ylabel="b", title="posterior and samples of the guide")
plt.show()
