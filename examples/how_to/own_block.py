"""
Write and test your own block
=============================

A block is a list of steps. ``impflow_zoo.testing`` tests the properties of every block: the two
directions are inverses of each other, log-determinants and gradients are right, and the rows of a
batch are independent, in float32 and float64. The tests need pytest.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from impflow_zoo import LipschitzMLP, ResidualBlock, Step

# %%
# This block solves ``w + g(w) = x`` and returns ``z = w - g(w)``. A step is a residual map
# ``w + sign g(w)``, which is evaluated or ``inverted``; it names the attribute that holds the net.
# Roots, log-determinants and derivatives of both directions follow from the list of steps.


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
        parameter.mul_(3)  # a steeper net; it still satisfies its bound
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
# The tests of the block are a class in a file that pytest collects. The bound of the net determines
# how accurate the roots must be.

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
# Here two of the tests run. All tests take about a minute. The longest are marked ``slow``:
# register the mark with ``markers = ["slow"]`` in pytest's settings. ``-m "not slow"`` skips them.

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
print(*run.stdout.splitlines()[-7:], sep="\n")
assert run.returncode == 0
