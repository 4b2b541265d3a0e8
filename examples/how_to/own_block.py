"""
My own block and its tests
==========================

A block is a list of steps, and ``impflow_zoo.testing`` tests what every block promises: directions
that are inverses of each other, log-determinants and gradients, rows that know nothing of each
other, in float32 and float64.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from impflow_zoo import LipschitzMLP
from impflow_zoo.testing import ResidualBlock, Step

# %%
# This block solves ``w + g(w) = x`` and answers ``z = w - g(w)``. A step is a residual map
# ``w + sign g(w)`` with the net of that name, evaluated, or ``inverted``. Roots, log-determinants
# and derivatives of both directions follow from the list.


class Cayley(ResidualBlock):
    """``z = w - g(w)`` with ``w + g(w) = x``."""

    steps = (Step("net", inverted=True), Step("net", sign=-1))

    def __init__(self, net, logdet="auto", solver=None):
        super().__init__(logdet, solver)
        self.net = net


torch.manual_seed(0)
net = LipschitzMLP(1, (32, 32))
with torch.no_grad():
    for parameter in net.parameters():
        parameter.mul_(3)  # steeper than nets start; the bound holds all the same
block = Cayley(net).eval()
x = torch.linspace(-3, 3, 200)[:, None]
with torch.no_grad():
    z, logabsdet = block(x)
    back, _ = block.inverse(z)
print(f"round trip: {(back - x).abs().max():.1e}")
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
left.plot(x, z)
left.set(xlabel="x", ylabel="z", title="the block")
right.plot(x, logabsdet, label="log-determinant")
right.plot(x[1:], (z.diff(dim=0) / x.diff(dim=0)).log(), "--", label="log of the slope")
right.set(xlabel="x")
right.legend(frameon=False)
plt.show()

# %%
# Its tests are a class, in a file that pytest collects. The bound of the net tells the tests how
# accurate roots have to be.

tests = """
from own_block import Cayley

from impflow_zoo import LipschitzMLP
from impflow_zoo.testing import BlockCase, BlockLaws


class TestCayley(BlockLaws):
    case = BlockCase(
        lambda logdet: Cayley(LipschitzMLP(3, (8, 8)), logdet), shape=(3,), lipschitz=0.99
    )
"""

# %%
# Here are two of the laws. All of them take about a minute. The longest are marked ``slow``:
# register the mark, ``markers = ["slow"]`` in pytest's settings, and leave them out by
# ``-m "not slow"``.

with tempfile.TemporaryDirectory() as folder:
    class_alone = f"""
from impflow_zoo.testing import ResidualBlock, Step

class Cayley(ResidualBlock):
    steps = {Cayley.steps}

    def __init__(self, net, logdet="auto", solver=None):
        super().__init__(logdet, solver)
        self.net = net
"""
    Path(folder, "own_block.py").write_text(class_alone)
    Path(folder, "test_own_block.py").write_text(tests)
    Path(folder, "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    laws = "test_there_and_back or test_logdet_is_that_of_the_jacobian"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--verbose",
        "--no-header",
        "-k",
        laws,
        "-m",
        "not slow",
    ]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
print(run.stdout[-700:])
assert run.returncode == 0
