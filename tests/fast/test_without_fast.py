"""Everything works, slower, without the nets that are differentiated by hand."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.blocks import BLOCKS, IMAGE_BLOCKS

import impflow_zoo
from impflow_zoo.testing import ContractLaws, ValueLaws
from impflow_zoo.transforms import binding

# Nets with a fast form; the laws of all others run without one anyway.
FAST = {
    name: case
    for name, case in (BLOCKS | IMAGE_BLOCKS).items()
    if name.endswith(("-sin", "-lipswish", "-sandwich", "-one-feature"))
    or name in ("resflow-conv-image", "impflow-dense-image")
}


@pytest.fixture(autouse=True)
def _no_fast_form(monkeypatch):
    monkeypatch.setattr(binding, "faster", lambda net: net)


class TestValuesWithoutFast(ValueLaws):
    """Over every net that has a fast form."""

    @pytest.fixture(params=FAST.values(), ids=FAST)
    def block_case(self, request):
        return request.param

    @pytest.fixture(autouse=True)
    def _outside_of_training(self, request):
        image = request.node.callspec.id.split("-")[1] in ("conv", "dense")
        if image and request.node.callspec.params.get("training"):
            pytest.skip("power vectors follow to 1e-4 there: not the gradient of calculus")


class TestContractWithoutFast(ContractLaws):
    """Likewise."""

    @pytest.fixture(params=FAST.values(), ids=FAST)
    def block_case(self, request):
        return request.param


def test_the_room_may_be_deleted(tmp_path):
    """A copy of the package without it: nothing else asks for it."""
    source, copy = Path(impflow_zoo.__file__).parent, tmp_path / "impflow_zoo"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("fast", "__pycache__"))
    program = (
        "import torch, impflow_zoo as zoo\n"
        f"assert zoo.__file__.startswith({str(tmp_path)!r})\n"
        "from impflow_zoo import ImpFlowTransform as Block\n"
        "nets = [zoo.LipschitzMLP(3, (8,)), zoo.SandwichMLP(3, (8,))]\n"
        "images = [zoo.LipschitzConvNet(2, (4, 4), 6), zoo.LipschitzDenseNet(2, (4, 4), 3)]\n"
        "for block, x in ((Block(*nets), torch.randn(5, 3)),\n"
        "                 (Block(*images), torch.randn(5, 2, 4, 4))):\n"
        "    z, logdet = block(x)\n"
        "    (z.sum() + logdet.sum()).backward()\n"
        "    assert all(p.grad is not None for p in block.parameters())\n"
        "    z, logdet = block.eval()(x)\n"
        "    torch.testing.assert_close(block.inverse(z)[0], x, rtol=0, atol=1e-4)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, env=environment)
