"""What the speed benchmarks measure: models of one shape from several makers, and three tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import normflows as nf
import torch
from nflows.transforms import CompositeTransform, SqueezeTransform, Transform
from torch import Tensor, nn

from impflow_zoo import (
    ImpFlowTransform,
    LipschitzConvNet,
    LipschitzMLP,
    ResFlowTransform,
    Solver,
)
from impflow_zoo.lipschitz.norms import LipschitzLayer
from impflow_zoo.normflows import from_residual
from impflow_zoo.numerics.report import Report
from impflow_zoo.transforms.whole import walk

__all__ = ["CASES", "TASKS", "Case", "Side", "compose", "make_side"]

TASKS = ("train", "log_prob", "sample")
_TIGHTEN = 2.0  # weights are enlarged by this, so that the Lipschitz bounds are active
_DRAWS = 20  # behind the standard error of a log-determinant that is drawn afresh
_POWER_ITERATIONS = 5  # that normflows' users run after each step of training


@dataclass(frozen=True)
class Case:
    """Sizes of a model and a batch.

    Arguments:
        shape: shape of one row.
        blocks: number of blocks.
        per_scale: for images, how many of them between one squeeze and the next.
        hidden: hidden sizes of every net; for images the width of their convolutions.
        batch: number of rows.
        lipschitz: bound of every net.
        logdet: of our blocks.
        rtol: of roots of our ImpFlow, and of its derivatives; None is the default.
        tasks: what is measured.
    """

    shape: tuple[int, ...]
    blocks: int
    hidden: tuple[int, ...]
    batch: int
    lipschitz: float = 0.99
    per_scale: int = 1
    logdet: str = "auto"
    rtol: float | None = None
    tasks: tuple[str, ...] = TASKS


CASES = {
    "2d-b200": Case((2,), 6, (128, 128), 200),
    "2d-b5000": Case((2,), 6, (128, 128), 5000),
    "d6": Case((6,), 5, (128,) * 4, 1000),
    "d6-probes": Case((6,), 5, (128,) * 4, 1000, logdet="unbiased", tasks=("train",)),
    "d43": Case((43,), 5, (128,) * 4, 1000),
    "d43-probes": Case((43,), 5, (128,) * 4, 1000, logdet="unbiased", tasks=TASKS[:2]),
    "image": Case((3, 32, 32), 3, (64,), 16, lipschitz=0.9),
    "image-large": Case((3, 32, 32), 6, (512,), 2, lipschitz=0.9, per_scale=2),
}
# What the public code asks of roots, in training and for samples.
for _name in ("2d-b5000", "d6", "d43", "image"):
    CASES |= {
        f"{_name}-{rtol:.0e}": replace(CASES[_name], rtol=rtol, tasks=(task,))
        for task, rtol in (("train", 1e-6), ("sample", 1e-5))
    }


class Side:
    """A model of one maker: a step of training, a log-probability and a sample of it.

    Arguments:
        case: its sizes.
        forward: data -> noise with its log-determinant.
        inverse: noise -> data.
        modules: everything with parameters.
        after_step: what the maker's users have to call after a step of the optimizer.
    """

    def __init__(
        self,
        case: Case,
        forward: Callable[[Tensor], tuple[Tensor, Tensor]],
        inverse: Callable[[Tensor], Tensor],
        modules: nn.Module,
        after_step: Callable[[], None] = lambda: None,
    ) -> None:
        self.forward, self.inverse = forward, inverse
        self.modules, self.after_step = modules, after_step
        torch.manual_seed(1)
        self.x = torch.randn(case.batch, *case.shape)
        self.optimizer = torch.optim.Adam(modules.parameters(), lr=1e-5)
        self.nets = [m for m in modules.modules() if isinstance(m, NETS)]
        self.kinds: tuple[type[nn.Module], ...] = NETS  # whose evaluations are counted

    def prepare(self, task: str) -> None:
        self.modules.train(task == "train")

    def run(self, task: str) -> Any:
        """The task once, after `prepare`."""
        return getattr(self, f"_{task}")()

    def _train(self) -> float:
        self.optimizer.zero_grad()
        z, logdet = self.forward(self.x)
        loss = (0.5 * z.flatten(1).square().sum(1) - logdet).mean()
        loss.backward()
        self.optimizer.step()
        self.after_step()
        return loss.item()

    @torch.no_grad()
    def _log_prob(self) -> Tensor:
        z, logdet = self.forward(self.x)
        return logdet - 0.5 * z.flatten(1).square().sum(1)

    @torch.no_grad()
    def _sample(self) -> Tensor:
        return self.inverse(self.x)

    @torch.no_grad()
    def passes(self) -> None:
        """One plain evaluation of all nets: the unit that times are given in."""
        for net, x in self._plain:
            net(x)

    def standard_error(self) -> float:
        """Root mean square over rows of that of the log-probability, in nats."""
        self.prepare("log_prob")
        report = Report()
        if isinstance(self.modules, Transform):
            with torch.no_grad():
                walk(self.modules, self.x, report=report)
        if not report.logdets or any(found.mode == "unbiased" for found in report.logdets):
            draws = [self.run("log_prob") for _ in range(_DRAWS)]
            return float(torch.stack(draws).var(0).mean().sqrt())
        variances = [found.variance for found in report.logdets]
        return float(torch.stack(variances).sum(0).mean().sqrt())

    def sample_error(self, exact: Side) -> float:
        """Root mean square over rows of the relative error of a sample.

        Arguments:
            exact: a side with the same weights that finds roots to the rounding of float64.
        """
        exact.modules.double()
        exact.x = exact.x.double()
        for side in (self, exact):
            side.prepare("sample")
        expected = exact.run("sample").detach().flatten(1)
        error = self.run("sample").detach().flatten(1) - expected
        return float((error.norm(dim=1) / expected.norm(dim=1)).square().mean().sqrt())

    def build_passes(self) -> None:
        """Make the plain nets of `passes`, from the weights as they are."""
        self._plain = [(_plain(net.eval()), self._like(net)) for net in self.nets]

    def _like(self, net: nn.Module) -> Tensor:
        return self.x.view(len(self.x), *net.shape) if hasattr(net, "shape") else self.x


NETS = (LipschitzMLP, LipschitzConvNet, nf.nets.LipschitzMLP)


def make_side(name: str, case: Case) -> Side:
    """A model of `case` by `impflow`, `resflow` or `normflows`; the last two share weights."""
    torch.manual_seed(0)
    if name == "impflow":
        solver = Solver(rtol=case.rtol, backward_rtol=case.rtol)
        return compose(
            case,
            [
                ImpFlowTransform(_net(case, i), _net(case, i), logdet=case.logdet, solver=solver)
                for i in range(case.blocks)
            ],
        )
    if len(case.shape) > 1:
        return compose(case, [ResFlowTransform(_net(case, i)) for i in range(case.blocks)])
    layers = [_residual(case) for _ in range(case.blocks)]
    if name == "resflow":
        blocks = [from_residual(layer, logdet=case.logdet).transform for layer in layers]
        return compose(case, blocks)
    model = nn.ModuleList(layers)
    return Side(
        case,
        lambda x: _chain([layer.inverse for layer in layers], x),
        lambda z: _chain([layer.forward for layer in reversed(layers)], z)[0],
        model,
        lambda: nf.utils.update_lipschitz(model, _POWER_ITERATIONS),
    )


def _net(case: Case, block: int) -> nn.Module:
    if len(case.shape) == 1:
        net: nn.Module = LipschitzMLP(case.shape[0], case.hidden, "sin", case.lipschitz)
    else:
        channels, height, width = case.shape
        scale = block // case.per_scale
        net = LipschitzConvNet(
            channels * 4**scale,
            (height >> scale, width >> scale),
            case.hidden[0],
            lipschitz=case.lipschitz,
        )
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, LipschitzLayer):
                layer.weight.mul_(_TIGHTEN)
    return net


def compose(
    case: Case, blocks: Sequence[Transform], after_step: Callable[[], None] = lambda: None
) -> Side:
    """A side of these nflows blocks, with squeezes between the scales of images."""
    steps: list[Transform] = []
    for i, block in enumerate(blocks):
        if i and i % case.per_scale == 0 and len(case.shape) > 1:
            steps.append(SqueezeTransform())
        steps.append(block)
    model = CompositeTransform(steps)

    def decode(z: Tensor) -> Tensor:
        return walk(model, _last_shape(z, steps), backwards=True, want_logdet=False)[0]

    return Side(case, model, decode, model, after_step)


def _last_shape(z: Tensor, steps: list[Transform]) -> Tensor:
    for step in steps:
        if isinstance(step, SqueezeTransform):
            z = step(z)[0]
    return z


def _residual(case: Case) -> nf.flows.Residual:
    features = case.shape[0]
    widths = [features, *case.hidden, features]
    share = case.lipschitz ** (1 / (len(widths) - 1))
    net = nf.nets.LipschitzMLP(widths, lipschitz_const=share, init_zeros=False)
    with torch.no_grad():
        for linear in net.net[1::2]:
            linear.weight.mul_(_TIGHTEN)
    nf.utils.update_lipschitz(net, 200)
    return nf.flows.Residual(net)


def _chain(
    layers: list[Callable[[Tensor], tuple[Tensor, Tensor]]], x: Tensor
) -> tuple[Tensor, Tensor]:
    total = x.new_zeros(len(x))
    for layer in layers:
        x, logdet = layer(x)
        total = total + logdet
    return x, total


def _plain(net: nn.Module) -> nn.Sequential:
    """The net with its weights of the moment, as anybody would write it down."""
    if isinstance(net, nf.nets.LipschitzMLP):
        activations, linears = list(net.net[::2]), list(net.net[1::2])
        weights = [linear.compute_weight(update=False) for linear in linears]
    else:
        linears = list(net.layers)
        activations = [getattr(net, "first", None), *net.activations]
        weights = [layer.normalised_weight() for layer in linears]
    steps: list[nn.Module] = []
    for activation, linear, weight in zip(activations, linears, weights, strict=True):
        steps.extend([activation] if activation is not None else [])
        steps.append(_plain_linear(weight.detach(), linear.bias.detach()))
    return nn.Sequential(*steps)


def _plain_linear(weight: Tensor, bias: Tensor) -> nn.Module:
    n, m, *kernel = weight.shape
    layer: nn.Module = (
        nn.Conv2d(m, n, kernel[0], padding=kernel[0] // 2) if kernel else nn.Linear(m, n)
    )
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer
