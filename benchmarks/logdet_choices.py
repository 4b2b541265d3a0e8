"""Cost, error and variance of every way to a log-determinant, and of every solver.

    python benchmarks/logdet_choices.py [--out docs/pictures/logdet-choices.png]
    python benchmarks/logdet_choices.py --kept

One net at a time, three hidden layers of 128, orthogonal weights at the Lipschitz bound 0.9; the
reference is the dense Jacobian in float64. Costs are CPU times in passes, plain evaluations of the
net. The figures go to `results/logdet-choices.json`, the tables made of them into the notebook.
`--kept` draws the picture of these figures again, and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from documents import RESULTS, SOLVERS, markdown, publish
from torch import Tensor

from impflow_zoo import LipschitzMLP, LogDet, Solver
from impflow_zoo.lipschitz.norms import LipschitzLayer
from impflow_zoo.numerics.equation import Equation
from impflow_zoo.numerics.folded import fold
from impflow_zoo.numerics.residual import ResidualMap

NAME = "logdet-choices"
DIMENSIONS = (2, 6, 43, 63)
LIPSCHITZ = 0.9
CHOICES = {
    "exact": LogDet("exact"),
    "unbiased, solve": LogDet("unbiased"),
    "unbiased, roulette": LogDet("unbiased", series="roulette"),
    "truncated 8 x 1": LogDet("truncated", n_terms=8, n_probes=1),
    "truncated 20 x 4": LogDet("truncated"),
}
DRAWN = ("exact", "unbiased, solve", "unbiased, roulette", "truncated 20 x 4")
METHODS = ("auto", "fixed_point", "anderson", "broyden", "newton")
DRAWS = 20


def make_net(features: int) -> LipschitzMLP:
    """A net whose layers are at their bound in every direction: as hard as its constant allows."""
    torch.manual_seed(features)
    net = LipschitzMLP(features, (128, 128, 128), "sin", LIPSCHITZ)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, LipschitzLayer):
                layer.weight.copy_(2 * torch.nn.init.orthogonal_(layer.weight))
    return net.eval()


def passes(run: Callable[[], Any], one: Callable[[], Any], repeats: int = 5) -> float:
    """Median CPU time of a call, in that of a plain evaluation measured in between."""
    ratios = []
    run()
    for _ in range(repeats):
        start = time.process_time()
        for _ in range(5):
            one()
        middle = time.process_time()
        run()
        ratios.append((time.process_time() - middle) / (middle - start) * 5)
    return statistics.median(ratios)


def measure_logdet(net: LipschitzMLP, choice: LogDet, x: Tensor) -> dict[str, float]:
    """Bias and spread of the value over draws, cost in evaluation and with its gradient."""
    plain = plain_net(net, x)
    reference = reference_logdet(net, x)
    parameters = list(net.parameters())

    def value(seed: int) -> Tensor:
        torch.manual_seed(seed)
        settings = choice.seeded(seed)
        return ResidualMap(bound, logdet=settings, kappa=LIPSCHITZ).value_and_logdet(x)[1]

    bound = fold(net, None)
    with torch.no_grad():
        draws = torch.stack([value(seed) for seed in range(DRAWS)]).double()
        errors = draws - reference
        figures = {
            "rms_error": errors.square().mean().sqrt().item(),
            "std": draws.std(dim=0).square().mean().sqrt().item(),
            "mean_error": errors.mean().abs().item(),
            "value_passes": passes(lambda: value(0), plain),
        }
    figures["gradient_passes"] = passes(retaining(value, parameters), plain)
    return figures


def retaining(value: Callable[[int], Tensor], parameters: list[Tensor]) -> Callable[[], Any]:
    """Value and gradient, with the graph of the normalised weights kept."""
    return lambda: torch.autograd.grad(
        value(0).sum(), parameters, retain_graph=True, allow_unused=True
    )


def plain_net(net: LipschitzMLP, x: Tensor) -> Callable[[], Tensor]:
    """The unit of cost."""
    with torch.no_grad():
        layers: list[torch.nn.Module] = []
        for layer, activation in zip(net.layers, [*net.activations, None], strict=True):
            linear = torch.nn.Linear(*reversed(layer.weight.shape))
            linear.weight.copy_(layer.normalised_weight())
            linear.bias.copy_(layer.bias)
            layers += [linear] if activation is None else [linear, activation]
    sequential = torch.nn.Sequential(*layers)

    def run() -> Tensor:
        with torch.no_grad():
            return sequential(x)

    return run


def reference_logdet(net: LipschitzMLP, x: Tensor) -> Tensor:
    double = make_net(net.features).double()
    double.load_state_dict(net.state_dict())
    with torch.no_grad():
        return ResidualMap(fold(double, None), logdet=LogDet("exact")).value_and_logdet(x.double())[
            1
        ]


def measure_solver(net: LipschitzMLP, method: str, y: Tensor, *, training: bool) -> dict[str, Any]:
    """Steps, cost and largest error bound of the roots by a method."""
    with torch.no_grad():
        bound = fold(net, None)

        def solve() -> Any:
            solver = Solver(method=method)
            return solver.solve(bound, y, kappa=LIPSCHITZ, training=training, throw=False)

        solution, equation = solve(), Equation(net, y)
        return {
            "steps": solution.steps.float().mean().item(),
            "unsolved": int((~solution.converged).sum()),
            "error_bound": replace(solution, equation=equation).error_bound.amax().item(),
            "passes": passes(solve, plain_net(net, y)),
        }


def draw_picture(figures: dict[str, Any], out: Path) -> None:
    """Costs over the number of features, one line for each choice; narrow, as on a phone."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    def curves(axes: Any, costs: dict[str, list[float]]) -> None:
        """The legend has the order of the right ends."""
        for name in sorted(costs, key=lambda name: -costs[name][-1]):
            axes.plot(range(len(DIMENSIONS)), costs[name], marker="o", label=name)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)

    with pyplot.rc_context({"font.size": 11}):
        figure, (above, below) = pyplot.subplots(2, 1, figsize=(5.6, 7.6), layout="constrained")
        logdets: dict[str, list[float]] = {}
        for name in DRAWN:
            rows = [figures["logdet"][str(d)][name] for d in DIMENSIONS]
            label = f"{name}\n± {rows[-1]['rms_error']:.2g} nats"
            logdets[label] = [row["value_passes"] for row in rows]
        curves(above, logdets)
        solvers = [figures["solver"][str(d)] for d in DIMENSIONS]
        curves(below, {name: [row[name]["passes"] for row in solvers] for name in METHODS})
        above.set(ylabel="passes", title="Cost of a row's log-determinant")
        below.set(xlabel="features", ylabel="passes", title="Cost of a root")
        for axes in (above, below):
            axes.set_yscale("log")
            axes.set_yticks([5, 10, 20, 50, 100, 200], ["5", "10", "20", "50", "100", "200"])
            axes.minorticks_off()
            axes.set_xticks(range(len(DIMENSIONS)), [str(d) for d in DIMENSIONS])
            axes.spines[["top", "right"]].set_visible(False)
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=130)


def measure(rows: int) -> dict[str, Any]:
    """All figures: by kind, features and name."""
    figures: dict[str, Any] = {"logdet": {}, "solver": {}}
    for d in DIMENSIONS:
        net, x = make_net(d), torch.randn(rows, d)
        figures["logdet"][str(d)] = {}
        for name, choice in CHOICES.items():
            figures["logdet"][str(d)][name] = measure_logdet(net, choice, x)
            print(f"d={d}: {name}", file=sys.stderr)
        figures["solver"][str(d)] = {}
        for method in METHODS:
            row = measure_solver(net, method, x, training=False)
            row["training_passes"] = measure_solver(net, method, x, training=True)["passes"]
            figures["solver"][str(d)][method] = row
            print(f"d={d}: {method}", file=sys.stderr)
    return figures


def tables(figures: dict[str, Any]) -> dict[str, str]:
    """The tables of the notebook, by the name of their place in it."""
    logdets = [
        (
            d,
            name,
            f"{row['value_passes']:.1f}",
            f"{row['gradient_passes']:.1f}",
            *(f"{row[key]:.1e}" for key in ("rms_error", "std", "mean_error")),
        )
        for d, rows in figures["logdet"].items()
        for name, row in rows.items()
    ]
    solvers = [
        (
            d,
            name,
            *(f"{row[key]:.1f}" for key in ("steps", "passes", "training_passes")),
            f"{row['error_bound']:.1e}",
            str(row["unsolved"]),
        )
        for d, rows in figures["solver"].items()
        for name, row in rows.items()
    ]
    return {
        "log-determinant table": markdown(
            "d | log-det | value | with gradient | error | spread | mean error", logdets
        ),
        "solver table": markdown(
            "d | solver | evaluations | passes | in training | largest error bound | unsolved",
            solvers,
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/pictures/logdet-choices.png"))
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--kept", action="store_true", help="draw the figures in results/ again")
    options = parser.parse_args()
    if options.kept:
        figures = json.loads((RESULTS / f"{NAME}.json").read_text())
        draw_picture(figures, options.out)
        return
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # powers of contractions end there, and crawl
    figures = measure(options.rows)
    draw_picture(figures, options.out)
    publish(SOLVERS, tables(figures), figures, NAME)
    for table in tables(figures).values():
        print(table, end="\n\n")


if __name__ == "__main__":
    main()
