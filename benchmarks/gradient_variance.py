"""Bias, variance and cost of the two training gradients, on images small enough for the exact one.

    python benchmarks/gradient_variance.py [--draws 300]

An ImpFlow of two scales on 3x8x8 images in float64; batches of 8. The middle taps of convolutions
are orthogonal, biases push activations to where they are steep, and every bound is active, so that
nets contract slowly. The reference is the gradient through dense
Jacobians. The figures go to `results/gradient-variance.json`, the table made of them into the
guide.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from typing import Any

import torch
from documents import GUIDE, markdown, publish
from torch import Tensor

from impflow_zoo import ImageConfig, ImpFlow, LogDet
from impflow_zoo.lipschitz.convolutions import LipschitzConv2d
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.numerics.report import Report

SMOKE = "IMPFLOW_ZOO_SMOKE" in os.environ  # a test run: as little as possible

KAPPAS = (0.6,) if SMOKE else (0.6, 0.9, 0.98)
CHOICES = {
    "solve, rtol 1e-3": LogDet("unbiased", rtol=1e-3),
    "solve, rtol 1e-8": LogDet("unbiased", rtol=1e-8),
    "roulette": LogDet("unbiased", series="roulette"),
}
OTHER_BATCHES = "exact, other batches"
BATCH, BATCHES = 8, 2 if SMOKE else 20


def make_model(kappa: float) -> FlowModel:
    """A model whose nets stretch most directions alike, as far as their bound allows."""
    torch.manual_seed(0)
    model = ImpFlow(ImageConfig(image_size=(8, 8), blocks=(1, 1), width=16, lipschitz=kappa))
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, LipschitzConv2d):
                middle = layer.weight.shape[-1] // 2
                torch.nn.init.orthogonal_(layer.weight[:, :, middle, middle], gain=3)
                layer.bias.fill_(4)
    model.train()
    for _ in range(20):  # ActNorm learns from its first batch, power vectors from all
        model.log_prob(torch.rand(BATCH, 3, 8, 8))
    return model.double().eval()


def gradient(model: FlowModel, logdet: LogDet, x: Tensor) -> tuple[Tensor, float, float]:
    """The gradient of the mean log-density, products per net, and CPU seconds."""
    blocks = list(model.blocks())
    for block in blocks:
        block.logdet = logdet
    start = time.process_time()
    report = Report()
    loss = model.log_prob(x, report=report).mean()
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    seconds = time.process_time() - start
    products = sum(estimate.products for estimate in report.logdets)
    nets = sum(len(block.nets) for block in blocks)
    flat = torch.cat([g.flatten() for g in found if g is not None])
    return flat, products / nets, seconds


def measure(kappa: float, draws: int) -> dict[str, dict[str, float]]:
    """Figures of each estimator with nets of one Lipschitz constant."""
    model = make_model(kappa)
    x = torch.rand(BATCH, 3, 8, 8, dtype=torch.float64)
    exact = gradient(model, LogDet("exact"), x)[0]
    figures = {}
    for name, choice in CHOICES.items():
        found, products, seconds = zip(
            *(gradient(model, choice, x) for _ in range(draws)), strict=True
        )
        figures[name] = {
            **spread(torch.stack(found), exact),
            "bias": bias(torch.stack(found), exact),
            "products": statistics.fmean(products),
            "most_products": max(products),
            "milliseconds": 1e3 * statistics.fmean(seconds),
        }
    batches = [torch.rand_like(x) for _ in range(BATCHES)]
    found, _, seconds = zip(*(gradient(model, LogDet("exact"), b) for b in batches), strict=True)
    figures[OTHER_BATCHES] = {
        **spread(torch.stack(found), exact),
        "products": 0.0,
        "milliseconds": 1e3 * statistics.fmean(seconds),
    }
    return figures


def spread(draws: Tensor, exact: Tensor) -> dict[str, float]:
    """Standard deviation of the whole gradient, over the length of the exact one."""
    return {"spread": float(draws.var(dim=0).sum().sqrt() / exact.norm())}


def bias(draws: Tensor, exact: Tensor) -> float:
    """Root mean square over the entries of the error of their mean, in its standard errors.

    One for an estimator without bias.
    """
    error = (draws.std(dim=0) / len(draws) ** 0.5).clamp(min=1e-12)
    return float(((draws.mean(dim=0) - exact) / error).square().mean().sqrt())


def tables(figures: dict[str, dict[str, dict[str, float]]]) -> dict[str, str]:
    """The table of the guide, by the name of its place in it."""
    rows = [
        (
            kappa,
            name,
            f"{row['spread']:.3f}",
            f"{row['bias']:.2f}" if "bias" in row else "",
            f"{row['products']:.1f}" if row["products"] else "",
            f"{row['most_products']:.1f}" if "most_products" in row else "",
            f"{row['milliseconds']:.0f}",
            f"{row['spread'] ** 2 * row['milliseconds']:.2f}" if "bias" in row else "",
        )
        for kappa, by_name in figures.items()
        for name, row in by_name.items()
    ]
    header = "kappa | gradient | spread | bias | products | at most | ms | spread² x ms"
    return {"gradient table": markdown(header, rows)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=2 if SMOKE else 300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    figures: dict[str, Any] = {}
    for kappa in KAPPAS:
        figures[f"{kappa:g}"] = measure(kappa, options.draws)
        print(tables(figures)["gradient table"], file=sys.stderr)
    publish(GUIDE, tables(figures), figures, "gradient-variance")


if __name__ == "__main__":
    main()
