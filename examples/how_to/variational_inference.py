"""
Variational inference with nflows
=================================

Fit a flow to a density that you can evaluate but not sample, by the reverse Kullback-Leibler
divergence. This needs gradients of samples. Gradients flow through both directions of a block.

The target is banana-shaped. Its normalising constant is known, so a perfect fit has the divergence
zero.
"""

import matplotlib.pyplot as plt
import torch
from nflows.distributions import StandardNormal
from nflows.transforms import ActNorm, CompositeTransform
from torch.distributions import Normal

from impflow_zoo import ImpFlowTransform, SandwichMLP


def log_target(x):
    return Normal(0.0, 1.0).log_prob(x[:, 0]) + Normal(x[:, 0] ** 2, 0.5).log_prob(x[:, 1])


def block():
    return ImpFlowTransform(SandwichMLP(2, (32, 32)), SandwichMLP(2, (32, 32)))


# %%
# nflows' ``ActNorm`` is initialised by the first data that pass in the direction data -> noise. So
# some rows pass the flow in this direction before training.

torch.manual_seed(0)
base = StandardNormal([2])
transform = CompositeTransform([block(), ActNorm(2), block(), ActNorm(2), block()])
transform(torch.randn(256, 2))
optimizer = torch.optim.Adam(transform.parameters(), lr=1e-2)
divergences = []
for _ in range(200):
    z = torch.randn(256, 2)
    x, logabsdet = transform.inverse(z)  # noise -> data
    divergence = (base.log_prob(z) - logabsdet - log_target(x)).mean()
    optimizer.zero_grad()
    divergence.backward()
    optimizer.step()
    divergences.append(float(divergence.detach()))
print(f"reverse KL: {sum(divergences[-10:]) / 10:.3f} nats")

# %%
# Each sample is a root. Its gradient comes from the implicit function theorem, so memory does not
# grow with the number of solver steps.

transform.eval()
line = torch.linspace(-3, 3, 150), torch.linspace(-2, 7, 150)
target = log_target(torch.cartesian_prod(*line)).exp().view(150, 150)
with torch.no_grad():
    samples = transform.inverse(torch.randn(500, 2))[0]
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
left.plot(divergences)
left.set(xlabel="step", ylabel="reverse KL, nats", yscale="log")
right.contour(*line, target.T, levels=target.max() * torch.linspace(0.05, 0.95, 6), linewidths=0.8)
right.plot(*samples.T, ".", markersize=3)
right.set(title="target and samples", xlim=(-3, 3), ylim=(-2, 7))
plt.show()

# %%
# - ``flow.sample_and_log_prob(n)`` of nflows and ``model.reverse_kld(n)`` of normflows also give
#   samples with gradients.
# - A residual block needs roots in the direction noise -> data. To train in this direction without
#   roots, reverse the block with nflows' ``InverseTransform(block)``.
# - ``model.sample`` of ``ImpFlow`` and ``ResFlow`` records no gradients; ``model.rsample(n)`` and
#   ``model.rsample_and_log_prob(n)`` do.
