"""The pictures of the explanations: residual maps, log-determinants, roots, tight nets, radius.

python examples/explanations.py [--out docs/pictures]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torch.nn import functional

from impflow_zoo import LipschitzMLP, RadialTransform, SandwichMLP, Solver
from impflow_zoo.transforms.whitening import Whitening

KAPPA = 0.8


def wave(x: Tensor) -> Tensor:
    """A contraction of the line, with slopes between `-KAPPA` and `KAPPA`."""
    return KAPPA / 2 * (torch.sin(2 * x) + 0.4)


def residual_map() -> Figure:
    """A residual map between its slopes, and the iteration that inverts it."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    x = torch.linspace(-3, 3, 301)
    centre = torch.tensor(0.3)
    at = centre + wave(centre)
    slopes = [at + slope * (x - centre) for slope in (1 - KAPPA, 1 + KAPPA)]
    left.fill_between(x, torch.minimum(*slopes), torch.maximum(*slopes), alpha=0.2)
    left.plot(x, x + wave(x), color="C3")
    left.plot(centre, at, "o", color="C3")
    left.set(xlabel="x", ylabel="x + g(x)", ylim=(-4, 4), title=f"slopes from 0.2 to {1 + KAPPA}")
    y, iterate, path = 1.6, torch.tensor(-1.2), []
    for _ in range(12):
        path += [(iterate, iterate), (iterate, y - wave(iterate))]
        iterate = y - wave(iterate)
    right.plot(x, x, color="black", linewidth=0.8, label="w")
    right.plot(x, y - wave(x), color="C3", label="y - g(w)")
    right.plot(*zip(*path, strict=True), color="C0", linewidth=1, label="iteration")
    right.plot(iterate, iterate, "o", color="C0")
    right.set(xlabel="w", xlim=(-1.6, 2.6), ylim=(-1.6, 2.8), title="w + g(w) = 1.6")
    right.legend(frameon=False)
    return figure


def jacobian(features: int, norm: float) -> Tensor:
    """A random matrix of that norm, most of whose singular values are smaller."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(features, features, generator=generator, dtype=torch.float64)
    return matrix * norm / torch.linalg.matrix_norm(matrix, ord=2)


def logdet_estimates() -> Figure:
    """Estimates of a log-determinant by probes, against the terms that are kept."""
    features, terms, probes = 24, 10, 200
    matrix = jacobian(features, 0.9)
    exact = torch.linalg.slogdet(torch.eye(features, dtype=torch.float64) + matrix)[1]
    generator = torch.Generator().manual_seed(1)
    v = torch.randint(2, (features, probes), generator=generator).double() * 2 - 1
    product, total, estimates = v, torch.zeros(probes, dtype=torch.float64), []
    for k in range(1, terms + 1):
        product = matrix @ product
        total = total - (-1) ** k * (v * product).sum(dim=0) / k
        estimates.append(total)
    found = torch.stack(estimates)  # [terms, probes]
    figure = Figure(figsize=(6.5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    kept = torch.arange(1, terms + 1)
    jitter = 0.5 * torch.rand(probes, generator=generator) - 0.25
    for k, row in zip(kept, found, strict=True):
        axes.plot(k + jitter, row, ".", color="C0", markersize=3, alpha=0.4)
    error = found.std(dim=1) / probes**0.5
    axes.errorbar(kept, found.mean(dim=1), error, color="C3", label=f"mean of {probes} probes")
    axes.axhline(float(exact), color="black", linewidth=0.8, label="exact")
    axes.set(xlabel="terms kept", ylabel="log-determinant, nats", xticks=kept)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def linear_net(bound: float) -> Callable[[Tensor], Tensor]:
    """A net of 8 features with slopes close to a bound."""
    features = 8
    matrix = jacobian(features, 1.0)
    left, _, right = torch.linalg.svd(matrix)
    weight = left @ torch.diag(torch.linspace(bound, bound / 4, features).double()) @ right
    return lambda x: torch.sin(0.5 * x @ weight.T) + 0.5 * x @ weight.T


def root_methods(budgets: range) -> Figure:
    """Worst residual of 100 rows against the evaluations that a method may take."""
    y = torch.randn(100, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, bound in zip(figure.subplots(1, 2, sharey=True), (0.6, 0.99), strict=True):
        net = linear_net(bound)
        for method in ("fixed_point", "anderson", "broyden", "newton"):
            residuals = []
            for budget in budgets:
                solver = Solver(method, rtol=1e-13, atol=0.0, max_steps=budget)
                residuals.append(solver.solve(net, y, throw=False).residual.max())
            axes.semilogy(budgets, residuals, label=method)
        axes.set(xlabel="evaluations of the net", title=f"bound {bound}")
    figure.axes[0].set_ylabel("worst residual of 100 rows")
    figure.axes[0].legend(frameon=False)
    return figure


def fitted(net: nn.Module, steps: int) -> Tensor:
    """What a net comes to that is fitted to `|x|` from -1 to 1, up to a constant."""
    x = torch.linspace(-1, 1, 101)[:, None]
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        off = net(x) - x.abs()
        optimizer.zero_grad()
        off.var().backward()
        optimizer.step()
        schedule.step()
    net.eval()
    with torch.no_grad():
        return (net(x) - net(torch.zeros(1, 1)))[:, 0]


def tight_nets(steps: int) -> Figure:
    """Fits of `|x|` by nets that are bounded by layer, and as a whole."""
    depths = (1, 2, 3, 4)
    x = torch.linspace(-1, 1, 101)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(x, x.abs(), color="black", linewidth=3.5, alpha=0.3, label="|x|")
    for made, label in ((LipschitzMLP, "bounded by layer"), (SandwichMLP, "bounded as a whole")):
        rises = []
        for depth in depths:
            torch.manual_seed(0)
            fit = fitted(made(1, (32,) * depth, "relu", 0.999), steps)
            rises.append(float(fit[0] + fit[-1]) / 2)
            if depth == 1:
                left.plot(x, fit, label=label)
        right.plot(depths, rises, "o-", label=label)
    left.set(xlabel="x", xticks=(-1, -0.5, 0, 0.5, 1), title="one hidden layer")
    left.legend(frameon=False)
    right.axhline(1, color="black", linewidth=0.8)
    right.set(xlabel="hidden layers", xticks=depths, ylim=(0, 1.05), title="mean slope of the fit")
    return figure


def patches(count: int) -> Tensor:
    """Patches of 8x8 grey pixels of scikit-learn's two photographs, less their mean, `[n, 64]`."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for photograph in load_sample_images().images:
        grey = torch.tensor(photograph).float().mean(dim=2) / 256
        grey = grey + torch.rand(grey.shape, generator=generator) / 256
        every = grey.unfold(0, 8, 1).unfold(1, 8, 1).flatten(2).flatten(0, 1)
        parts.append(every[torch.randperm(len(every), generator=generator)[: count // 2]])
    rows = torch.cat(parts)[torch.randperm(count, generator=generator)]
    return rows - rows.mean(dim=1, keepdim=True)


def radial(steps: int) -> Figure:
    """The lengths of whitened patches before and after a radial layer, and their contrast."""
    torch.manual_seed(0)
    rows = patches(8000)[:, :-1]  # the last pixel follows from the others
    features = rows.shape[1]
    whitening, layer = Whitening(features), RadialTransform(features)
    with torch.no_grad():
        x, _ = whitening.train()(rows)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    for _ in range(steps):
        z, logabsdet = layer(x)
        loss = (0.5 * z.square().sum(dim=1) - logabsdet).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        z, _ = layer(x)
        u = torch.linspace(-2.5, 2.5, 200)
        line = torch.zeros(len(u), features)
        line[:, 0] = features**0.5 * u.exp()
        curve = layer(line)[0][:, 0].div(features**0.5).log()
        order = x.norm(dim=1).argsort()[torch.linspace(0, len(x) - 1, 9).long()[1:-1]]
        shown = [whitening.inverse(part[order])[0] for part in (x, z)]

    def lengths(rows: Tensor) -> Tensor:
        return rows.norm(dim=1) / features**0.5

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.2, 1, 1.5))
    bins = torch.logspace(-1.5, 0.9, 80)
    samples = {"whitened patches": x, "behind the layer": z, "Gaussian": torch.randn_like(x)}
    for label, part in samples.items():
        left.hist(lengths(part), bins, histtype="step", linewidth=1.5, label=label)
    left.set(xscale="log", xlabel="length / sqrt(63)", ylabel="patches", title="lengths")
    left.legend(frameon=False, loc="upper left", fontsize="small")
    middle.plot(u, u, color="black", linewidth=0.8, label="identity")
    middle.plot(u, curve, color="C1", label="f")
    middle.set(xlabel="log length before", ylabel="log length after", title="the spline")
    middle.legend(frameon=False)
    tiles = []
    for part in shown:
        whole = torch.cat((part, -part.sum(dim=1, keepdim=True)), dim=1).view(-1, 8, 8)
        tiles.append(torch.cat([*functional.pad(whole, (1, 1, 1, 1), value=torch.nan)], dim=1))
    right.imshow(torch.cat(tiles), cmap="gray", vmin=-0.4, vmax=0.4, aspect="equal")
    right.set(xticks=[], yticks=[4.5, 14.5], title="seven patches, from the least contrast")
    right.set_yticklabels(["before", "after"])
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    parser.add_argument("--dry-run", action="store_true", help="three steps of every training")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    pictures = {
        "residual_map": residual_map(),
        "logdet_estimates": logdet_estimates(),
        "root_methods": root_methods(range(1, 41, 13 if options.dry_run else 1)),
        "tight_nets": tight_nets(steps=3 if options.dry_run else 400),
        "radial": radial(steps=3 if options.dry_run else 200),
    }
    for name, figure in pictures.items():
        figure.savefig(options.out / f"{name}.png", dpi=110)


if __name__ == "__main__":
    main()
