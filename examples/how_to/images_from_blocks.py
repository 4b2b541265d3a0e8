"""
Build a flow of images from blocks
==================================

``ImageConfig`` describes multi-scale models like the image models of the zoo. You can also combine
convolutional blocks with other nflows transforms by hand. This example builds one scale for the 8x8
digits of scikit-learn, which have 17 grey levels.
"""

import math

import matplotlib.pyplot as plt
import torch
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.transforms import ActNorm, CompositeTransform, SqueezeTransform
from sklearn.datasets import load_digits

from impflow_zoo import ImpFlowTransform, LipschitzConvNet
from impflow_zoo.transforms.images import ImageLogit

torch.manual_seed(0)
levels = torch.as_tensor(load_digits().images, dtype=torch.float32)[:, None]  # [1797, 1, 8, 8]
images = (levels + torch.rand_like(levels)) / 17  # dequantised, in [0, 1]


def block():
    nets = [LipschitzConvNet(4, (4, 4), width=16) for _ in range(2)]
    return ImpFlowTransform(*nets)


# %%
# First comes a logit. Then 2x2 pixels become channels: ``[B, 1, 8, 8]`` to ``[B, 4, 4, 4]``.

steps = [ImageLogit(0.05), SqueezeTransform(), ActNorm(4)]
for _ in range(2):
    steps += [block(), ActNorm(4)]
flow = Flow(CompositeTransform(steps), StandardNormal([4, 4, 4]))
optimizer = torch.optim.Adam(flow.parameters(), lr=5e-3)
for _ in range(120):
    loss = -flow.log_prob(images[torch.randint(1500, (32,))]).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# %%
# The score is converted from nats to bits per pixel. A uniform density of 17 levels has log2(17).

flow.eval()
with torch.no_grad():
    nats = flow.log_prob(images[1500:]).mean() / 64
    samples = flow.sample(16).clamp(0, 1)
print(f"held out: {math.log2(17) - nats / math.log(2):.2f} bits per pixel of {math.log2(17):.2f}")

# %%
# After 120 steps with two blocks the samples have strokes, but few are digits.

figure, axes = plt.subplots(2, 1, figsize=(7, 2.2), layout="constrained")
for ax, shown, title in zip(axes, (images[1500:1516], samples), ("data", "samples"), strict=True):
    ax.imshow(torch.cat([*shown[:, 0]], dim=1), cmap="gray", vmin=0, vmax=1)
    ax.set_ylabel(title)
    ax.set(xticks=[], yticks=[])
plt.show()
