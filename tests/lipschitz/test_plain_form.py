"""The plain form of nets obeys all laws: it is what their other forms are compared with."""

from __future__ import annotations

import pytest
from support.blocks import BLOCKS, IMAGE_BLOCKS

from impflow_zoo.lipschitz.image_networks import ImageNet
from impflow_zoo.lipschitz.net import LipschitzNet
from impflow_zoo.lipschitz.perceptron import Perceptron
from impflow_zoo.testing import ContractLaws, ValueLaws

# Nets that have another form; the laws of all others run with the plain one anyway.
CASES = {
    name: case
    for name, case in (BLOCKS | IMAGE_BLOCKS).items()
    if name.endswith(("-sin", "-lipswish", "-sandwich", "-one-feature"))
    or name in ("resflow-conv-image", "impflow-dense-image")
}
# The fast tests take every net once, and every kind of block.
FEW = (
    *("resflow-sin", "impflow-lipswish", "monotone-sandwich", "impflow-one-feature"),
    *("resflow-conv-image", "impflow-dense-image"),
)
PARAMS = [
    pytest.param(case, id=name, marks=() if name in FEW else pytest.mark.slow)
    for name, case in CASES.items()
]


@pytest.fixture(autouse=True)
def _plain_form(monkeypatch):
    for kind in (Perceptron, ImageNet):
        monkeypatch.setattr(kind, "form", LipschitzNet.form)


class TestValuesOfThePlainForm(ValueLaws):
    """Over every net that has another form."""

    @pytest.fixture(params=PARAMS)
    def block_case(self, request):
        return request.param

    @pytest.fixture(autouse=True)
    def _outside_of_training(self, request):
        image = request.node.callspec.id.split("-")[1] in ("conv", "dense")
        if image and request.node.callspec.params.get("training"):
            pytest.skip("power vectors follow to 1e-4 there: not the gradient of calculus")


class TestContractOfThePlainForm(ContractLaws):
    """Likewise."""

    @pytest.fixture(params=PARAMS)
    def block_case(self, request):
        return request.param
