"""What a sandwich net, and learned frequencies, cost beside a spectral net of the same widths.

    python benchmarks/net_cost.py [--publish]

A flow of five ResFlow blocks of each net, one thread, in turn, the median of several runs.
`evaluation` is `encode`, `log-density` the log-determinant with it, `training` a training step
with AdamW. The sandwich net has learned a map of slopes as those of trained models. The spectral
net has the weights that evaluate the same map, and a bound that leaves them as they are: so solvers
take the same number of steps. The third net is the spectral one with a frequency for each neuron.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from documents import ROOT, markdown, publish
from nflows.transforms import CompositeTransform
from torch import nn

from impflow_zoo import LipschitzMLP, ResFlowTransform, SandwichMLP
from impflow_zoo.training.optimisation import optimizers
from impflow_zoo.training.recipe import TrainingSettings

GUIDE = ROOT / "docs" / "which-net.md"
CASES = (  # features, rows, widths
    (2, 5000, (128, 128)),
    (6, 1000, (64, 64, 64)),
    (6, 1000, (128, 128, 128)),
    (43, 1000, (64, 64, 64)),
    (43, 1000, (128, 128, 128)),
)
BLOCKS = 5  # of a flow: the weights of one block leave the cache before they are used again
TASKS = ("evaluation", "log-density", "training")


def learned(features: int, widths: tuple[int, ...]) -> SandwichMLP:
    """A sandwich net that has learned `Q sin(x) / 2`, with an orthogonal matrix `Q`."""
    torch.manual_seed(0)
    net = SandwichMLP(features, widths)
    mixing = torch.linalg.qr(torch.randn(features, features))[0] / 2
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(300):
        x = torch.randn(256, features)
        optimizer.zero_grad()
        (net(x) - torch.sin(x) @ mixing).square().mean().backward()
        optimizer.step()
    return net


@torch.no_grad()
def spectral(net: SandwichMLP) -> LipschitzMLP:
    """The spectral net that evaluates the same map."""
    widths, count = net.hidden_features, len(net.hidden_features)
    same = LipschitzMLP(net.features, widths, activation="halfsin")
    bound, scales = net.at(None), same.scaled_functions()
    for i, layer in enumerate(same.lipschitz_layers()):
        # Frequencies are in the weights of the folded net; here the activation scales by itself.
        before = scales[i][1] if i < count else 1.0
        after = scales[i - 1][2] if i else 1.0
        layer.weight.copy_(bound.weights[i] / (before * after))
        layer.bias.copy_(bound.biases[i] / before)
        layer.coefficient = 1e6  # the product of the norms may exceed 1, the slopes do not
    return same


def with_frequencies(net: LipschitzMLP) -> LipschitzMLP:
    """The spectral net with a learned frequency for each neuron, which is 1 so far."""
    same = LipschitzMLP(net.features, net.hidden_features, activation="halfsin", frequency=1.0)
    missing, unknown = same.load_state_dict(net.state_dict(), strict=False)
    assert not unknown
    assert all(name.startswith("log_frequencies") for name in missing)
    for layer in same.lipschitz_layers():
        layer.coefficient = 1e6
    return same


def tasks(net: nn.Module, features: int, rows: int) -> dict[str, Callable]:
    """What is timed, by its name."""
    blocks = [ResFlowTransform(copy.deepcopy(net)) for _ in range(BLOCKS)]
    flow, trained = CompositeTransform(blocks).eval(), CompositeTransform(copy.deepcopy(blocks))
    trained.train()
    settings = TrainingSettings(learning_rate=1e-12)  # which leaves the weights as they are
    (optimizer,) = optimizers(trained, settings).values()
    x = torch.randn(rows, features)

    @torch.no_grad()
    def encode() -> None:
        z = x
        for block in blocks:
            z = block.encode(z)

    def step() -> None:
        trained.zero_grad()
        z, logabsdet = trained(x)
        (0.5 * z.square().sum() - logabsdet.sum()).backward()
        optimizer.step()

    found = encode, torch.no_grad()(lambda: flow(x)), step
    return dict(zip(TASKS, found, strict=True))


def measure(repeats: int) -> list[dict[str, Any]]:
    """Milliseconds of every case, net and task."""
    figures = []
    for features, rows, widths in CASES:
        net = learned(features, widths)
        plain = spectral(net)
        nets = {"spectral": plain, "sandwich": net, "frequencies": with_frequencies(plain)}
        runs = {kind: tasks(net, features, rows) for kind, net in nets.items()}
        times: dict[str, dict[str, list[float]]] = {kind: {t: [] for t in TASKS} for kind in nets}
        for repeat in range(repeats):
            first = repeat % len(nets)  # each net is first as often as another
            for task in TASKS:
                for kind in [*nets][first:] + [*nets][:first]:
                    torch.manual_seed(repeat)  # training draws as many terms of series for each net
                    start = time.perf_counter()
                    runs[kind][task]()
                    times[kind][task].append(1e3 * (time.perf_counter() - start))
        medians = {
            kind: {t: median(found) for t, found in own.items()} for kind, own in times.items()
        }
        figures.append({"features": features, "rows": rows, "widths": widths, **medians})
    return figures


def tables(figures: list[dict[str, Any]]) -> dict[str, str]:
    """The tables of the guide: how many times as long as the spectral net the others take."""
    header = f"d | rows | widths | {' | '.join(TASKS)}"
    return {
        name: markdown(
            header,
            [
                (
                    str(f["features"]),
                    str(f["rows"]),
                    "-".join(map(str, f["widths"])),
                    *(f"{f[kind][task] / f['spectral'][task]:.2f}" for task in TASKS),
                )
                for f in figures
            ],
        )
        for name, kind in (("cost table", "sandwich"), ("frequency table", "frequencies"))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--publish", action="store_true", help="write the guide's tables")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = measure(options.repeats)
    print(*tables(figures).values(), sep="\n\n")
    if options.publish:
        publish(GUIDE, tables(figures), figures, "net-cost")


if __name__ == "__main__":
    main()
