"""Our flow as the density estimator of sbi, beside sbi's own, on two of its standard tasks.

    python benchmarks/sbi_tasks.py two-moons nsf maf implicit residual
    python benchmarks/sbi_tasks.py slcp nsf maf implicit residual --blocks 2

Prints the mean log q(theta | x) of 2,000 held-out simulations in nats with its standard error,
the number of parameters, epochs and CPU seconds. Needs sbi (the extra `libraries`). The tasks are
those of Lueckmann et al., Benchmarking Simulation-Based Inference, 2021, sections T.8 and T.3.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.transforms import ActNorm, CompositeTransform
from sbi.inference import NPE
from sbi.neural_nets.estimators import NFlowsFlow
from sbi.utils import BoxUniform
from sbi.utils.sbiutils import standardizing_net, standardizing_transform
from torch import Tensor, nn

from impflow_zoo import ImpFlowTransform, ResFlowTransform, SandwichMLP
from impflow_zoo.evaluation.standard_errors import standard_error


def two_moons(theta: Tensor) -> Tensor:
    """`[N, 2]` parameters to `[N, 2]` simulations."""
    angle = math.pi * (torch.rand(len(theta)) - 0.5)
    radius = 0.1 + 0.01 * torch.randn(len(theta))
    moon = torch.stack((radius * angle.cos() + 0.25, radius * angle.sin()), dim=1)
    a, b = theta.unbind(dim=1)
    return moon + torch.stack((-(a + b).abs(), b - a), dim=1) / math.sqrt(2)


def slcp(theta: Tensor) -> Tensor:
    """`[N, 5]` parameters to four points in the plane each, `[N, 8]`."""
    first, second, tilt = theta[:, 2] ** 2, theta[:, 3] ** 2, theta[:, 4].tanh()
    root = torch.zeros(len(theta), 2, 2)
    root[:, 0, 0], root[:, 1, 0] = first, tilt * second
    root[:, 1, 1] = second * (1 - tilt**2).clamp(min=1e-6).sqrt()
    return (theta[:, None, :2] + torch.randn(len(theta), 4, 2) @ root.mT).flatten(1)


TASKS: dict[str, tuple[Callable[[Tensor], Tensor], int, float]] = {
    "two-moons": (two_moons, 2, 1.0),
    "slcp": (slcp, 5, 3.0),
}


def builder(kind: str, blocks: int, embedding: int, dropout: float) -> Callable[..., NFlowsFlow]:
    """What `density_estimator=` takes: a function of the first simulations."""

    def build(theta: Tensor, x: Tensor) -> NFlowsFlow:
        size, seen = theta.shape[1], x.shape[1]
        context = embedding or seen

        def block() -> nn.Module:
            nets = [SandwichMLP(size, (64, 64), context_features=context) for _ in range(2)]
            return ImpFlowTransform(*nets) if kind == "implicit" else ResFlowTransform(nets[0])

        layers: list[nn.Module] = [standardizing_net(x)]
        if embedding:
            for width in (seen, embedding):
                layers += [nn.Linear(width, embedding), nn.SiLU(), nn.Dropout(dropout)]
            layers.append(nn.Linear(embedding, embedding))
        steps: list[Any] = [standardizing_transform(theta)]
        for _ in range(blocks if kind == "implicit" else 2 * blocks):
            steps += [block(), ActNorm(size)]
        flow = Flow(CompositeTransform(steps), StandardNormal([size]), nn.Sequential(*layers))
        return NFlowsFlow(flow, theta[0].shape, x[0].shape)

    return build


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("estimators", nargs="+", help="nsf, maf, implicit or residual")
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--blocks", type=int, default=4, help="implicit ones, or half the residual")
    parser.add_argument("--embedding", type=int, default=32, help="width of its layers; 0: none")
    parser.add_argument("--dropout", type=float, default=0.0, help="within the embedding")
    parser.add_argument("--rate", type=float, default=2e-3, help="learning rate of our flows")
    parser.add_argument("--patience", type=int, default=50, help="epochs without a better one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    simulate, size, edge = TASKS[options.task]
    prior = BoxUniform(-edge * torch.ones(size), edge * torch.ones(size))
    theta, held_out = prior.sample((options.simulations,)), prior.sample((2000,))
    x, seen = simulate(theta), simulate(held_out)
    for name in options.estimators:
        ours = name in ("implicit", "residual")
        build: Any = name
        if ours:
            build = builder(name, options.blocks, options.embedding, options.dropout)
        torch.manual_seed(1)
        start = time.process_time()
        trainer = NPE(prior, density_estimator=build, show_progress_bars=False)
        trainer.append_simulations(theta, x)
        rate = {"learning_rate": options.rate} if ours else {}
        estimator = trainer.train(stop_after_epochs=options.patience, **rate).eval()
        with torch.no_grad():
            score = estimator.log_prob(held_out[None], condition=seen)[0]
        error = standard_error(score)
        parameters = sum(p.numel() for p in estimator.parameters())
        print(
            f"\n{options.task} {name}: {score.mean():.3f} +- {error:.3f} nats, "
            f"{parameters:,} parameters, {trainer.summary['epochs_trained'][-1]} epochs, "
            f"{time.process_time() - start:.0f} CPU seconds"
        )


if __name__ == "__main__":
    main()
