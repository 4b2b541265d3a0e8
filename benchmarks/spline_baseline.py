"""A coupling spline flow trained by the zoo's trainer on a recipe's data: the yardstick of cards.

    python benchmarks/spline_baseline.py hub_configs/impflow-power-plant/recipe.yaml --data FOLDER

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
from impflow_zoo.training import Trainer, open_splits


class SplineFlow(FlowModel):
    """Coupling layers of rational-quadratic splines, 8 bins, on random halves of the columns."""

    def _block(self, net: Callable[[], nn.Module], logdet: LogDet) -> Transform:
        features = self.config.features
        coupling = PiecewiseRationalQuadraticCouplingTransform(
            mask=[i % 2 for i in range(features)],
            transform_net_create_fn=lambda n, m: ResidualNet(n, m, hidden_features=64),
            num_bins=8,
            tails="linear",
            tail_bound=5.0,
        )
        return CompositeTransform([RandomPermutation(features), coupling])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--progress", action="store_true")
    options = parser.parse_args()
    recipe = read_recipe(options.recipe)
    config = dataclasses.replace(recipe.config, blocks=options.blocks, actnorm=False)
    settings = dataclasses.replace(recipe.training, seed=options.seed)
    rows, validation = open_splits(recipe, options.data)
    torch.manual_seed(options.seed)
    model = SplineFlow(config)
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
        f"coupling spline flow, {sum(p.numel() for p in model.parameters()):,} parameters, "
        f"seed {options.seed}: {float(log_prob.mean()):.3f} "
        f"+- {float(log_prob.std() / len(log_prob) ** 0.5):.3f} nats on {len(log_prob)} rows "
        f"({state['rows']:,} rows seen, best step {state['best_step']}, "
        f"{state['seconds'] / 60:.1f} minutes)"
    )


if __name__ == "__main__":
    main()
