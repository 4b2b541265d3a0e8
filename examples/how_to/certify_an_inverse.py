"""
Certify an inverse
==================

Prove that a model is invertible, and bound the error of its inverse.

A block is invertible if its nets are contractions: their Lipschitz constants are below 1.
``certify`` computes an upper bound for every net, from the weights that evaluation uses. On the
command line: ``impflow-zoo certify impflow-kin8nm``.
"""

import matplotlib.pyplot as plt
import torch

from impflow_zoo import Solver, create_model
from impflow_zoo.lipschitz.certify import certify, worst

model = create_model("impflow-kin8nm")
certificates = certify(model)
for certificate in certificates[:4]:
    print(f"{certificate.name}: at most {certificate.bound:.4f}")
print(f"{len(certificates)} nets, margin {worst(certificates).margin:.4f}")

# %%
# The margin is 1 minus the largest bound. It is positive, so every block is invertible for all
# inputs, not only for tested ones.
#
# The inverse is found by iteration. Its error is also bounded: the distance between the iterate and
# the root of ``w + g(w) = y`` is at most ``residual / (1 - kappa)``, with the certified ``kappa``.
# ``error_bound`` is this bound; it covers the rounding of the residual.

net = next(iter(model.blocks())).net_z.double()
y = torch.randn(400, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
exact = Solver().solve(net, y)
bounds, errors = [], []
tolerances = [10.0**-k for k in range(1, 13)]
with torch.no_grad():
    for tolerance in tolerances:
        found = Solver(rtol=tolerance, atol=0.0).solve(net, y, kappa=net.certificate())
        errors.append(float((found.value - exact.value).norm(dim=1).max()))
        bounds.append(float(found.error_bound.max()))
figure, ax = plt.subplots(figsize=(5, 3.4), layout="constrained")
ax.loglog(tolerances, bounds, "o-", label="proved bound")
ax.loglog(tolerances, errors, "s-", label="error")
ax.set(xlabel="tolerance asked for", ylabel="distance to the root, worst of 400 rows")
ax.legend(frameon=False)
plt.show()
assert all(error <= bound for error, bound in zip(errors, bounds, strict=True))

# %%
# The round trip of a model passes all of its blocks. In float32 its error is about 1e-5 standard
# deviations; in float64 it is far smaller.

model = create_model("impflow-kin8nm")
for dtype in (torch.float32, torch.float64):
    model = model.to(dtype)
    x = model.sample(200, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        back = model.decode(model.encode(x))
    error = float(((back - x) / x.std(dim=0)).abs().max())
    print(f"{dtype}: {error:.1e} standard deviations at most")

# %%
# A row that does not converge raises ``SolverError``, which states the number of rows, the worst
# residual and the settings to change. See also :doc:`/roots` and :doc:`/tight-nets`.
