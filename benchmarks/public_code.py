"""The ImpFlow code of Lu et al. (2021) as a side of the speed benchmark, on our nets and weights.

It is read from a checkout of https://github.com/thu-ml/implicit-normalizing-flows (commit 7bd0b2c),
of which nothing is kept here. As it stands it does not import; what is changed in memory is in
`REPAIRS`. Blocks get the settings of its own scripts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from cases import Case, Side, compose, make_side
from nflows.transforms import Transform
from torch import Tensor, nn

from impflow_zoo import ImpFlowTransform, Solver
from impflow_zoo.lipschitz.activations import Sin
from impflow_zoo.models.fields import ConfigError
from impflow_zoo.models.flow import FlowModel

__all__ = [
    "NoCheckoutError",
    "classifier_block",
    "give_back",
    "public_model",
    "public_side",
    "read_code",
]

REPAIRS = (
    ("from torch._six import container_abcs", "import collections.abc as container_abcs"),
    ("from termcolor import colored", ""),  # for messages that nothing here prints
    ("from scipy.optimize import root", ""),  # not used, and 36 MB
    ("import lib.layers.base as base_layers", ""),  # not used
    ("from .broyden import broyden", ""),  # handed over
    ("and x.shape[1] <= 10)\n", "and x.shape[1] <= 10):\n"),
)
_FEW = 5  # power iterations from our converged vectors, before anything is measured


class NoCheckoutError(FileNotFoundError):
    """A folder is not a checkout of the public code."""


def read_code(folder: Path) -> SimpleNamespace:
    """Its block, layers and activations.

    Raises:
        NoCheckoutError: if a file of them is missing.
    """
    broyden = _read(folder, "broyden.py").broyden
    return SimpleNamespace(
        imBlock=_read(folder, "implicit_block.py", broyden=broyden).imBlock,
        layers=_read(folder, "base/mixed_lipschitz.py"),
        activations=_read(folder, "base/activations.py"),
    )


def _read(folder: Path, file: str, **given: Any) -> Any:
    path = folder / "lib" / "layers" / file
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise NoCheckoutError(
            f"{folder} is no checkout of the public ImpFlow code: {error}"
        ) from error
    for broken, repaired in REPAIRS:
        text = text.replace(broken, repaired)
    module = ModuleType(path.stem)
    vars(module).update(given)
    exec(compile(text, str(path), "exec", dont_inherit=True), vars(module))
    return module


class _Net(nn.Sequential):
    """A net, told from other sequences where evaluations are counted."""


class _Block(Transform):
    """One of its blocks, called as nflows calls ours.

    Arguments:
        block: its `imBlock`.
        exact: find the roots of `inverse` by our solver.
    """

    def __init__(self, block: Any, exact: bool) -> None:
        super().__init__()
        self.block, self.exact = block, exact

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = x.contiguous()  # which it takes for granted
        # Detached, since it asks for gradients of the input that it is given.
        z, negative = self.block(x if x.requires_grad else x.detach(), x.new_zeros(len(x), 1))
        return z, -negative[:, 0]

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.exact:
            x = Solver().solve(self.block.nnet_x, z + self.block.nnet_z(z)).value
        else:
            x = self.block.inverse(z)
        return x, z.new_zeros(len(z))  # samples go without


def public_side(case: Case, folder: Path, *, exact: bool = False) -> Side:
    """The model of `make_side("impflow", case)` in the public code.

    Arguments:
        case: its sizes.
        folder: a checkout of the public code.
        exact: find the roots of samples by our solver, as a reference.

    Raises:
        NoCheckoutError: if the folder is no checkout of it.
    """
    code = read_code(folder)
    np.random.seed(0)  # which draws how many terms a series has
    ours = make_side("impflow", case)
    blocks = [
        _Block(
            code.imBlock(_net(code, block.net_x), _net(code, block.net_z), **_settings(case)),
            exact,
        )
        for block in ours.modules.modules()
        if isinstance(block, ImpFlowTransform)
    ]
    side = compose(case, blocks, _norm_updates(blocks))
    side.kinds = (_Net,)
    return side


def classifier_block(
    block: ImpFlowTransform, folder: Path, **settings: Any
) -> tuple[nn.Module, Callable[[], None]]:
    """Its block as its classifier calls it, on our nets and weights, and what follows a step.

    Arguments:
        block: ours.
        folder: a checkout of the public code.
        settings: of its block, where they are not the defaults that its classifier takes.

    Raises:
        NoCheckoutError: if the folder is no checkout of it.
    """
    code = read_code(folder)
    theirs: nn.Module = code.imBlock(_net(code, block.net_x), _net(code, block.net_z), **settings)
    return theirs, _norm_updates([theirs])


def public_model(model: FlowModel, folder: Path) -> tuple[FlowModel, Callable[[], None]]:
    """A copy of an ImpFlow of images with its blocks by the public code, and what follows a step.

    Arguments:
        model: ours.
        folder: a checkout of the public code.

    Raises:
        NoCheckoutError: if the folder is no checkout of it.
        ConfigError: if its nets have learned frequencies.
    """
    code, copied = read_code(folder), copy.deepcopy(model)
    np.random.seed(0)  # which draws how many terms a series has
    blocks = []
    for parent in list(copied.modules()):
        for name, ours in list(parent.named_children()):
            if isinstance(ours, ImpFlowTransform):
                nets = (_net(code, ours.net_x), _net(code, ours.net_z))
                blocks.append(_Block(code.imBlock(*nets, n_dist="poisson"), exact=False))
                setattr(parent, name, blocks[-1])
    return copied, _norm_updates(blocks)


@torch.no_grad()
def give_back(public: FlowModel, model: FlowModel) -> None:
    """Put the weights of `public_model(model, ...)` into ours, for our code to score them."""
    model.load_state_dict(public.state_dict(), strict=False)  # what is outside of blocks
    theirs = (m for m in public.modules() if isinstance(m, _Block))
    ours = (m for m in model.modules() if isinstance(m, ImpFlowTransform))
    for block, own in zip(theirs, ours, strict=True):
        for sequence, net in ((block.block.nnet_x, own.net_x), (block.block.nnet_z, own.net_z)):
            functions = (getattr(net, "first", None), *net.activations)
            pairs = zip(functions, net.layers, strict=True)
            steps = [step for pair in pairs for step in pair if step is not None]
            for their, our in zip(sequence, steps, strict=True):
                _take_parameters(our, their)
            for layer in net.layers:
                layer.settle()


@torch.no_grad()
def _take_parameters(module: nn.Module, other: nn.Module) -> None:
    """Those of a layer or an activation of the other code: they have the same names."""
    for name, parameter in module.named_parameters():
        parameter.copy_(getattr(other, name))


def _norm_updates(blocks: Sequence[nn.Module]) -> Callable[[], None]:
    """The power iterations that its scripts run after a step."""
    layers = [m for block in blocks for m in block.modules() if hasattr(m, "compute_weight")]

    @torch.no_grad()
    def after_step() -> None:
        for layer in layers:
            layer.compute_weight(update=True)

    return after_step


def _settings(case: Case) -> dict[str, Any]:
    """Of `run_toy.sh` and `run_tabular.sh`; what `train_img.py` takes unless told otherwise.

    `run_cifar10.sh` tells it to sum ten terms before the random ones, not two, which costs more.
    """
    if len(case.shape) > 1:
        return {"n_dist": "poisson"}
    if case.shape[0] == 2:
        return {"brute_force": True, "neumann_grad": False, "grad_in_forward": False}
    return {"neumann_grad": False, "grad_in_forward": False, "eps_forward": 1e-5}


def _net(code: SimpleNamespace, net: Any) -> _Net:
    """One of our nets with its weights, in the public code's layers.

    Raises:
        ConfigError: if the net has learned frequencies, which that code does not know.
    """
    if net.log_frequencies:
        raise ConfigError(
            "the public code has no learned frequencies: config.frequency=null is needed"
        )
    shape = getattr(net, "shape", None) or (net.features,)
    steps: list[nn.Module] = []
    first = getattr(net, "first", None)  # which nets on images may begin with
    for activation, layer in zip((first, *net.activations), net.layers, strict=True):
        if activation is not None:
            kind = "Sin" if isinstance(activation, Sin) else "Swish"
            relu = isinstance(activation, nn.ReLU)
            steps.append(nn.ReLU() if relu else getattr(code.activations, kind)())
            _take_parameters(steps[-1], activation)
        steps.append(_layer(code.layers, layer, plane=shape == (2,)))
    sequence = _Net(*steps)
    with torch.no_grad():
        sequence(torch.zeros(1, *shape))  # convolutions learn there how large images are
        theirs = [layer for layer in sequence if hasattr(layer, "compute_weight")]
        for layer, ours in zip(theirs, net.layers, strict=True):
            ours.settle()
            image = ours.operator(ours.tall(ours.weight), ours.vector)
            pair = ours.unit(image), ours.vector
            u, v = pair if len(layer.u) >= len(layer.v) else pair[::-1]
            layer.u.copy_(u)
            layer.v.copy_(v)
            layer.compute_weight(update=True, n_iterations=_FEW)
    return sequence


def _layer(layers: Any, layer: Any, plane: bool) -> nn.Module:
    """A layer with one's weights; norms as its scripts take them, for the plane and otherwise."""
    n, m, *kernel = layer.weight.shape
    norms = {"n_iterations": 20} if plane else {"atol": 1e-3, "rtol": 1e-3}
    norms["coeff"] = layer.coefficient
    if kernel:
        made = layers.InducedNormConv2d(m, n, kernel[0], 1, kernel[0] // 2, **norms)
    else:
        made = layers.InducedNormLinear(m, n, **norms)
    with torch.no_grad():
        made.weight.copy_(layer.weight)
        made.bias.copy_(layer.bias)
    return made
