"""A training step of an implicit block as a layer, beside the block of the public ImpFlow code.

    python benchmarks/classifier_block.py --public FOLDER [--repeats 7] [--publish]

The public classifier calls its block without a log-determinant; so do we, by `encode`. Both have
the same nets and weights, two convolutions with a ReLU between. A step is forward, backward to
images and weights, an Adam step and, of the public code, the power iterations that its script runs
after each. Roots and derivatives of both are asked for to 1e-6; the public code as it stands asks
for derivatives to 1e-10, which float32 does not have, and spends its thirty steps on them. Errors
are relative, of the block's value and of the gradient by the images, beside float64.

FOLDER is a checkout of https://github.com/thu-ml/implicit-normalizing-flows.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from documents import README, markdown, publish
from public_code import NoCheckoutError, classifier_block
from speed import in_process, timed
from torch import Tensor

from impflow_zoo import ImpFlowTransform, LipschitzConvNet, Solver

TOLERANCE = 1e-6


@dataclass(frozen=True)
class Case:
    """Sizes of a block and a batch."""

    channels: int
    hidden: int
    size: int
    batch: int
    bound: float = 0.9  # of every convolution

    def block(self, solver: Solver | None = None) -> ImpFlowTransform:
        """A block whose Lipschitz bounds are active."""
        torch.manual_seed(0)
        nets = [
            LipschitzConvNet(
                self.channels,
                (self.size, self.size),
                self.hidden,
                (3, 3),
                "relu",
                lipschitz=self.bound**2,
            )
            for _ in range(2)
        ]
        with torch.no_grad():
            for net in nets:
                for layer in net.lipschitz_layers():
                    layer.weight.mul_(2)
                    layer.settle()
        return ImpFlowTransform(*nets, solver=solver)


CASES = {
    "8x16x16, batch 128": Case(8, 8, 16, 128),
    "64x8x8, batch 32": Case(64, 128, 8, 32),
    "64x32x32, batch 4": Case(64, 64, 32, 4),
}


class Side:
    """One maker's block: a step of training, and errors.

    Arguments:
        x: images.
        layer: the block as a function.
        modules: what has its parameters.
        after_step: what its users call after a step.
    """

    def __init__(
        self,
        x: Tensor,
        layer: Callable[[Tensor], Tensor],
        modules: torch.nn.Module,
        after_step: Callable[[], None] = lambda: None,
    ) -> None:
        self.x, self.layer, self.after_step = x, layer, after_step
        self.optimizer = torch.optim.Adam(modules.parameters(), lr=1e-6)

    def step(self) -> list[Tensor]:
        """Value, and gradient by the images, of a step."""
        x = self.x.clone().requires_grad_()
        self.optimizer.zero_grad()
        z = self.layer(x)
        z.square().sum().backward()
        self.optimizer.step()
        self.after_step()
        assert x.grad is not None
        return [z.detach(), x.grad]

    def errors(self, expected: list[Tensor]) -> list[float]:
        """Relative errors of both, root mean squares over the batch."""
        pairs = zip(self.step(), expected, strict=True)
        return [float((a - b).norm() / b.norm()) for a, b in pairs]


def sides(case: Case, folder: Path) -> dict[str, Side]:
    """All that is measured."""
    x = torch.randn(case.batch, case.channels, case.size, case.size)
    tight, loose = case.block(Solver(rtol=TOLERANCE, backward_rtol=TOLERANCE)), case.block()
    found = {
        "ours": Side(x, tight.encode, tight),
        "ours, tolerances of training": Side(x, loose.encode, loose),
    }
    for name, settings in (("public", {"eps_backward": TOLERANCE}), ("public as it stands", {})):
        block, after_step = classifier_block(case.block(), folder, **settings)
        found[name] = Side(x, block, block, after_step)
    return found


def measure(name: str, folder: Path, repeats: int) -> list[dict[str, Any]]:
    """Times of all sides of a case, in turn."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    case, made = CASES[name], sides(CASES[name], folder)
    exact = copy.deepcopy(case.block(Solver())).double().eval()
    expected = Side(next(iter(made.values())).x.double(), exact.encode, exact).step()
    errors = {side: one.errors(expected) for side, one in made.items()}
    seconds: dict[str, list[float]] = {side: [] for side in made}
    for _ in range(repeats):
        for side, one in made.items():
            seconds[side].append(timed(one.step))
    return [
        {
            "case": name,
            "side": side,
            "seconds": statistics.median(found),
            "quartiles": statistics.quantiles(found, n=4)[::2],
            "errors": errors[side],
        }
        for side, found in seconds.items()
    ]


def tables(figures: list[dict[str, Any]]) -> dict[str, str]:
    """A row for each side; times faster are beside `public`."""
    public = {row["case"]: row["seconds"] for row in figures if row["side"] == "public"}
    rows = [
        (
            row["case"],
            row["side"],
            f"{1e3 * row['seconds']:.0f}",
            f"{public[row['case']] / row['seconds']:.1f}",
            " / ".join(f"{error:.0e}" for error in row["errors"]),
        )
        for row in figures
    ]
    header = "block | side | CPU ms | times faster | errors: value / gradient"
    return {"classifier table": markdown(header, rows)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--public", type=Path, metavar="FOLDER", required=True)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--publish", action="store_true")
    parser.add_argument("--case", choices=list(CASES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case, options.public, options.repeats)))
        return
    try:
        classifier_block(CASES["8x16x16, batch 128"].block(), options.public)
    except NoCheckoutError as error:
        parser.error(str(error))
    words = ["--public", str(options.public), "--repeats", str(options.repeats)]
    figures = [row for case in CASES for row in in_process("--case", case, *words, script=__file__)]
    print(*tables(figures).values())
    if options.publish:
        publish(README, tables(figures), figures, "classifier-block")


if __name__ == "__main__":
    main()
