"""
Denoise a photograph with deepinv
=================================

deepinv regularises inverse problems by the density of small patches: ``PatchNR`` takes a flow with
the signature ``(x, rev=False) -> (z, logdet)``. ``impflow-bsds300`` is a flow of 8x8 patches of
photographs. This page gives it this signature. Tested with deepinv 0.5 and torch 2.13.

.. image:: /pictures/deepinv-denoising.png
   :alt: a photograph, the photograph with noise, and the denoised one
"""

# sphinx_gallery_thumbnail_path = 'pictures/deepinv-denoising.png'

import math

import matplotlib.pyplot as plt
import torch
from deepinv.optim.prior import PatchNR
from sklearn.datasets import load_sample_image
from torch import nn
from torch.nn import functional

from impflow_zoo import create_model

# %%
# The rows of the model are patches minus their mean, without the last pixel, which the others
# determine. The mean is missing in the model. It gets a wide normal density with the standard
# deviation 0.25.


class PatchFlow(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, patches, rev=False):
        if rev:
            raise NotImplementedError("a regulariser only needs the direction data -> noise")
        mean = patches.mean(dim=1, keepdim=True)
        z, logdet = self.model.transform((patches - mean)[:, :-1])
        return torch.cat((z, (mean - 0.5) / 0.25), dim=1), logdet


model = create_model("impflow-bsds300").requires_grad_(requires_grad=False)
prior = PatchNR(PatchFlow(model), patch_size=8, channels=1)

# %%
# The data are a photograph of 64x64 grey pixels in [0, 1], and the same photograph with noise.

torch.manual_seed(0)
photo = torch.tensor(load_sample_image("china.jpg"))[60:316, 200:456].double().mean(dim=2) / 255
photo = functional.avg_pool2d(photo[None, None], 4).float()
sigma = 0.1
noisy = photo + sigma * torch.randn_like(photo)

# %%
# The denoised image maximises the density given the noisy one (expected patch log-likelihood,
# Zoran & Weiss, 2011). Each step uses a quarter of all patches, drawn at random.


def patches_of(image):
    return functional.unfold(image, 8).mT  # [1, patches, 64]


image = noisy.clone().requires_grad_()
optimizer = torch.optim.Adam([image], lr=0.02)
for _ in range(40):
    patches = patches_of(image)
    drawn = patches[:, torch.randperm(patches.shape[1])[: patches.shape[1] // 4]]
    # Every pixel lies in 64 patches, so the sum over all patches is divided by 64.
    energy = prior.fn(drawn).mean() * photo.numel() / 64
    loss = energy + (image - noisy).square().sum() / (2 * sigma**2)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def psnr(x):
    return -10 * math.log10((x - photo).square().mean())


print(f"PSNR: {psnr(noisy):.1f} dB with noise, {psnr(image.detach()):.1f} dB denoised")
figure, axes = plt.subplots(1, 3, figsize=(8, 2.9), layout="constrained")
for ax, shown, title in zip(
    axes, (photo, noisy, image.detach()), ("photograph", "with noise", "denoised"), strict=True
):
    ax.imshow(shown[0, 0], cmap="gray", vmin=0, vmax=1)
    ax.set_title(title)
    ax.axis("off")
plt.show()
