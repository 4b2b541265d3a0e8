"""
Use torch.func, torch.compile and torch.export
==============================================

Take derivatives of single rows, compile a flow, and export a model.

Blocks, nets and models are plain modules, and ``model(x)`` is ``model.log_prob(x)``. The model here
is small and not trained; yours comes from ``create_model`` or ``from_pretrained``.
"""

import io

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, vmap

from impflow_zoo import ResFlow, TabularConfig

config = TabularConfig(features=3, blocks=2, hidden_features=(16, 16), whiten=True)
model = ResFlow(config).double()
x = torch.randn(16, 3, dtype=torch.float64)
model.log_prob(x)  # in training mode some layers start from a first batch
model.eval()

# %%
# ``torch.func``: scores and curvatures of single rows, by ``vmap``. Roots have derivatives of any
# kind too, forward and reverse mode, to the third order, up to 512 features. Log-determinants have
# to be exact or, with ``randomness="same"`` in ``vmap``, truncated. ``auto`` truncates them beyond
# 64 features.


def log_prob(row: Tensor) -> Tensor:
    return model.log_prob(row[None])[0]


scores = vmap(grad(log_prob))(x)
curvatures = vmap(hessian(log_prob))(x[:2])
print(f"scores {tuple(scores.shape)}, curvatures {tuple(curvatures.shape)}")

# %%
# Gradients of every row by the parameters, for instance for Fisher information or private training.
# A function that is transformed writes no buffers: in training mode norms are iterated as in
# evaluation, and layers that start from a first batch must have started.

parameters = {name: p.detach() for name, p in model.named_parameters()}


def of_parameters(parameters: dict[str, Tensor], row: Tensor) -> Tensor:
    return functional_call(model, parameters, row[None])[0]


by_row = vmap(grad(of_parameters), in_dims=(None, 0))(parameters, x[:4])
print(f"{len(by_row)} gradients of {len(next(iter(by_row.values())))} rows")

# %%
# ``torch.export`` writes the operations of evaluation down, for runtimes without this package: the
# log-density, or the map to noise, of any number of rows. The program has no roots: it is
# for residual flows, from data to noise. ``strict=True`` lets rows vary. An ``ImpFlow`` and samples
# of any flow need roots, and models with bounds or periods look at their rows. There torch stops
# with an error: serve them from Python. To export a larger model takes a minute or two.


class Encode(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.encode(x)


rows = torch.export.Dim("rows")
for module in (model, Encode(model)):
    program = torch.export.export(module, (x[:4],), dynamic_shapes=({0: rows},), strict=True)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    with torch.no_grad():
        difference = float((loaded(x) - module(x)).abs().max())
    print(f"{type(module).__name__}: exported, largest difference {difference:.0e}")

# %%
# ``torch.compile(model.log_prob)`` compiles a residual flow with exact log-determinants as a whole,
# derivatives included. A model that searches for roots or sums series is not compiled: it runs as
# it is written. Its searches become faster if its nets are compiled, by ``block.net_x.compile()``
# and ``block.net_z.compile()``; derivatives then still take the nets as they are written, because
# torch.compile has no second derivatives. Compiled code that meets NaN fails without naming rows.

figure, axes = plt.subplots(figsize=(4, 4), layout="constrained")
axes.quiver(x[:, 0], x[:, 1], scores[:, 0].detach(), scores[:, 1].detach())
axes.set(xlabel="first column", ylabel="second column", title="scores of the rows")
plt.show()
