"""
Write your own net
==================

Any module that keeps the shape of its input can be the net of a block. You must make sure that its
Lipschitz constant is below 1: a block may not notice a larger one. In a conditional flow the net is
called as ``net(x, context)``.
"""

import matplotlib.pyplot as plt
import torch
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.transforms import ActNorm, CompositeTransform
from torch import nn

from impflow_zoo import ResFlowTransform
from impflow_zoo.data import TOYS

# %%
# The net has one hidden layer with tied weights: ``g(x) = s kappa V^T f(V x)`` with ``|V| <= 1``, a
# sign ``s``, and ``f(t) = tanh(c t + b) / c`` for each neuron. The slope of ``f`` is in [0, 1], so
# the norm of the Jacobian is at most ``kappa``. If a net has the attribute ``lipschitz``, the
# solver reports error bounds of its roots. ``certify`` asks the method ``certificate`` for a bound;
# this one leaves a generous margin for rounding.


class Tied(nn.Module):
    def __init__(self, features, hidden, sign, kappa=0.95):
        super().__init__()
        self.lipschitz = kappa
        self.sign = sign
        self.weight = nn.Parameter(torch.randn(hidden, features))
        self.bias = nn.Parameter(2 * torch.randn(hidden))
        self.steepness = nn.Parameter(torch.full((hidden,), 3.0))

    def forward(self, x):
        weight = self.weight / torch.linalg.matrix_norm(self.weight, ord=2)
        hidden = torch.tanh(self.steepness * (x @ weight.T) + self.bias) / self.steepness
        return self.sign * self.lipschitz * hidden @ weight

    def certificate(self):
        return self.lipschitz * (1 + 1e-5)


# %%
# The block computes log-determinant, inverse and derivatives. Blocks that stretch and blocks that
# compress alternate.

torch.manual_seed(0)
rows = TOYS["moons"].draw(4000, torch.Generator().manual_seed(0)).float()
train, held_out = rows[:3000], rows[3000:]
steps = [ActNorm(2)]
for i in range(8):
    steps += [ResFlowTransform(Tied(2, 64, sign=(-1) ** i)), ActNorm(2)]
flow = Flow(CompositeTransform(steps), StandardNormal([2]))
optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
for _ in range(200):
    loss = -flow.log_prob(train[torch.randint(3000, (256,))]).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
flow.eval()
with torch.no_grad():
    print(f"held out: {flow.log_prob(held_out).mean():.3f} nats")

# %%
# Check the net: no Jacobian at a data point may have a norm above ``lipschitz``, and the round-trip
# error must be small.

net = steps[1].net
with torch.no_grad():
    jacobians = torch.func.vmap(torch.func.jacrev(net))(held_out[:200])
    print(f"largest local norm: {torch.linalg.matrix_norm(jacobians, ord=2).max():.3f}")
    z, _ = flow._transform(held_out)
    x, _ = flow._transform.inverse(z)
    print(f"round trip: {(x - held_out).abs().max():.1e}")
    samples = flow.sample(1000)

figure, axes = plt.subplots(1, 2, figsize=(7, 3), sharex=True, sharey=True, layout="constrained")
for ax, points, title in zip(axes, (held_out, samples), ("held-out rows", "samples"), strict=True):
    ax.plot(*points.T, ".", markersize=2)
    ax.set_title(title)
plt.show()

# %%
# This net normalises its weight in every evaluation. To do it once per call of a block, define
# ``fold(context)``: see :doc:`/architecture`. :doc:`/which-net` describes the nets of the package.
