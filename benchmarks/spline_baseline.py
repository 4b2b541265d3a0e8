"""A spline flow trained by the zoo's trainer on a recipe's data: the yardstick of cards.

    python benchmarks/spline_baseline.py hub_configs/impflow-power-plant/recipe.yaml --data FOLDER
    python benchmarks/spline_baseline.py ... --autoregressive

Coupling layers transform half of the columns given the other half, six of them; autoregressive ones
each column given those before it, four of them: slower to sample from, stronger.

References:
    Neural Spline Flows (Durkan et al., 2019)
    https://arxiv.org/abs/1906.04032
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from nflows.nn.nets import ResidualNet
from nflows.transforms import (
    CompositeTransform,
    MaskedPiecewiseRationalQuadraticAutoregressiveTransform,
    PiecewiseRationalQuadraticCouplingTransform,
    RandomPermutation,
    Transform,
)
from torch import nn

from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.layout import WEIGHTS, read_safetensors
from impflow_zoo.models.store import load_weights
from impflow_zoo.numerics.logdet import LogDet
from impflow_zoo.recipe import read_recipe
from impflow_zoo.scoring import open_rows, score
from impflow_zoo.training import Trainer
from impflow_zoo.training.splits import open_splits

_SPLINES = {"num_bins": 8, "tails": "linear", "tail_bound": 5.0}


class CouplingSplines(FlowModel):
    """Coupling layers of rational-quadratic splines, 8 bins, on random halves of the columns."""

    def _block(self, net: Callable[[], nn.Module], logdet: LogDet) -> Transform:
        features = self.config.features
        coupling = PiecewiseRationalQuadraticCouplingTransform(
            mask=[i % 2 for i in range(features)],
            transform_net_create_fn=lambda n, m: ResidualNet(n, m, hidden_features=64),
            **_SPLINES,
        )
        return CompositeTransform([RandomPermutation(features), coupling])


class AutoregressiveSplines(FlowModel):
    """Autoregressive layers of rational-quadratic splines, 8 bins, on columns in random order."""

    def _block(self, net: Callable[[], nn.Module], logdet: LogDet) -> Transform:
        features = self.config.features
        layer = MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
            features, hidden_features=128, **_SPLINES
        )
        return CompositeTransform([RandomPermutation(features), layer])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--autoregressive", action="store_true")
    parser.add_argument("--blocks", type=int, help="layers, 6 or 4 by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--progress", action="store_true")
    options = parser.parse_args()
    recipe = read_recipe(options.recipe)
    kind, blocks, name = CouplingSplines, 6, "coupling"
    if options.autoregressive:
        kind, blocks, name = AutoregressiveSplines, 4, "autoregressive"
    blocks = options.blocks or blocks
    config = dataclasses.replace(recipe.config, blocks=blocks, actnorm=False)
    settings = dataclasses.replace(recipe.training, seed=options.seed)
    rows, validation = open_splits(recipe, options.data)
    torch.manual_seed(options.seed)
    model = kind(config)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model, settings, rows, validation, Path(folder), progress=options.progress
        )
        trainer.prepare()
        state = trainer.run()
        load_weights(model, read_safetensors(Path(folder) / WEIGHTS), "best weights")
    test = open_rows(config, options.data, recipe.data.test)
    log_prob = score(model.eval(), test, seed=0).log_prob
    print(
        f"{name} spline flow, {sum(p.numel() for p in model.parameters()):,} parameters, "
        f"seed {options.seed}: {float(log_prob.mean()):.3f} "
        f"+- {float(log_prob.std() / len(log_prob) ** 0.5):.3f} nats on {len(log_prob)} rows "
        f"({state['rows']:,} rows seen, best step {state['best_step']}, "
        f"{state['seconds'] / 60:.1f} minutes)"
    )


if __name__ == "__main__":
    main()
