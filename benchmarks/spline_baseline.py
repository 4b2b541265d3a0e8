"""A `SplineFlow` trained by the schedule of a table's recipe, on its data: the yardstick of cards.

    python benchmarks/spline_baseline.py hub_configs/impflow-power-plant/recipe.yaml --data FOLDER
    python benchmarks/spline_baseline.py ... --autoregressive

Six coupling layers or four autoregressive ones: the latter are slower to sample from, and stronger.

References:
    Neural Spline Flows (Durkan et al., 2019)
    https://arxiv.org/abs/1906.04032
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

import yaml

from impflow_zoo import SplineConfig, TabularConfig, create_model, evaluate
from impflow_zoo.mistakes import in_one_line
from impflow_zoo.models.config import to_json
from impflow_zoo.models.fields import ModelError
from impflow_zoo.recipe import Recipe, read_recipe
from impflow_zoo.training import train

SIZES = {
    "coupling": {"blocks": 6, "hidden_features": 64},
    "autoregressive": {"blocks": 4, "hidden_features": 128},
}
KEPT = ("features", "columns", "rounding", "metric", "whiten", "seed")


def with_splines(recipe: Recipe, layers: str, blocks: int | None) -> Recipe:
    """The recipe with a spline flow in place of its model."""
    config = recipe.config
    if not isinstance(config, TabularConfig):
        raise ModelError(f"the recipe is of kind {config.kind!r}: spline flows are for tables")
    sizes = {**SIZES[layers], **({} if blocks is None else {"blocks": blocks})}
    kept = {name: getattr(config, name) for name in KEPT}
    return dataclasses.replace(
        recipe, model="SplineFlow", config=SplineConfig(layers=layers, **sizes, **kept)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", help="folder, file, Hub id or toy:NAME; default: the recipe's")
    parser.add_argument("--autoregressive", action="store_true")
    parser.add_argument("--blocks", type=int, help="layers, 6 or 4 by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--progress", action="store_true")
    options = parser.parse_args()
    layers = "autoregressive" if options.autoregressive else "coupling"
    with in_one_line(), tempfile.TemporaryDirectory() as folder:
        recipe = with_splines(read_recipe(options.recipe), layers, options.blocks)
        written, run = Path(folder) / "recipe.yaml", Path(folder) / "run"
        sections = {
            "model": recipe.model,
            "config": to_json(recipe.config),
            "data": dataclasses.asdict(recipe.data),
            "training": dataclasses.asdict(recipe.training),
        }
        written.write_text(yaml.safe_dump(sections))
        state = train(
            written, data=options.data, out=run, seed=options.seed, progress=options.progress
        )
        model = create_model(run)
        result = evaluate(model, options.data or recipe.data.dataset, recipe.data.test)
        print(
            f"{layers} spline flow, {sum(p.numel() for p in model.parameters()):,} parameters, "
            f"seed {options.seed}: {result.value:.3f} +- {result.stderr:.3f} "
            f"{result.metric.replace('_', ' ')} on {result.n} rows ({state['rows']:,} rows seen, "
            f"best step {state['best_step']}, {state['seconds'] / 60:.1f} minutes)"
        )


if __name__ == "__main__":
    main()
