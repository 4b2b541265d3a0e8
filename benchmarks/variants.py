"""A recipe with settings changed, trained for some minutes: how recipes of the zoo are chosen.

    python benchmarks/variants.py hub_configs/resflow-cifar10/recipe.yaml --data FOLDER \
        --minutes 5 --set config.width=48 config.blocks=[4,4] training.learning_rate=1.0e-3

Of a recipe with stages the first one is trained. Settings are named as in the recipe; their values
are YAML. Prints each validation: step, rows seen, seconds, value; with --test also the score of the
best weights on the test split. The model is thrown away, unless --out names a new folder for it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import yaml

from impflow_zoo import evaluate, training
from impflow_zoo.models.fields import ConfigError
from impflow_zoo.models.filenames import LOG, RECIPE
from impflow_zoo.models.mistakes import in_one_line
from impflow_zoo.training.recipe import Recipe, read_recipe


def changed(recipe: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    """The recipe, its first stage alone, with `section.key=value` put in."""
    first = (recipe.pop("stages", None) or [{}])[0]
    recipe["training"] = {**(recipe.get("training") or {}), **first}
    for setting in settings:
        name, found, text = setting.partition("=")
        *sections, key = name.split(".")
        section: Any = recipe
        try:
            for part in sections:
                section = section.setdefault(part, {})
            section[key] = yaml.safe_load(text)
        except (AttributeError, TypeError, yaml.YAMLError):
            sections = []
        if not (found and sections):
            raise ConfigError(
                f"{setting}: section.key=value is needed, as in training.batch_size=32"
            )
    return recipe


def read_changed(path: Path, settings: list[str]) -> Recipe:
    """The recipe of a file, its first stage alone, with settings changed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / RECIPE
        file.write_text(yaml.safe_dump(changed(yaml.safe_load(path.read_text()), settings)))
        return read_recipe(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--out", type=Path, help="keep the model in this folder")
    parser.add_argument("--set", nargs="*", default=[], dest="settings")
    options = parser.parse_args()
    recipe = changed(yaml.safe_load(options.recipe.read_text()), options.settings)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / RECIPE
        path.write_text(yaml.safe_dump(recipe))
        run = options.out or Path(folder) / "run"
        training.train(path, data=options.data, out=run, max_minutes=options.minutes)
        lines = (run / LOG).read_text().splitlines()
        if options.test:
            settings = read_recipe(path).data
            data = options.data or settings.dataset
            revision = None if options.data else settings.revision
            scored = evaluate(str(run), data, settings.test, revision=revision)
        for line in map(json.loads, lines):
            if "validation" in line:
                figures = (line["step"], line["rows_seen"], round(line["seconds"]))
                print(*figures, f"{line['validation']:.4f}", sep="\t")
        if options.test:
            print(scored.report("test"))


if __name__ == "__main__":
    with in_one_line():
        main()
