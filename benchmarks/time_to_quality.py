"""Bits/dim against minutes: our ImpFlow beside the public ImpFlow code, one thread each.

    python benchmarks/time_to_quality.py hub_configs/impflow-cifar10/recipe.yaml --data FOLDER \
        --public CHECKOUT --public-set config.activation=lipswish config.frequency=null \
        --minutes 60 --out DIR [--resume] [--publish]

Both sides see the same batches. They start from the same weights too, unless `--public-set` changes
settings of the public side's nets: that code has no learned frequencies. Adam, the clipping and the
moving average of the weights are the recipe's; the learning rate falls by a cosine of the time that
is used, so that both end with a rate of zero. The public code's blocks have the
settings of its `train_img.py`. The averaged weights of both are scored by our code on the recipe's
validation rows. Minutes are CPU minutes of training steps; the sides take turns, a tenth of the
time each. DIR gets `curves.json`, `curves.png`, and a checkpoint of each side; `--publish` also
writes the table and the picture of `benchmarks/README.md`.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import math
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from documents import README, ROOT, markdown, publish
from public_code import give_back, public_model
from torch import Tensor
from variants import read_changed

from impflow_zoo.data import Source
from impflow_zoo.evaluation.scoring import score
from impflow_zoo.models.classes import model_class
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.mistakes import in_one_line
from impflow_zoo.numerics.seeds import Use, mix
from impflow_zoo.numerics.solver import NumericalWarning
from impflow_zoo.training.batches import Batches
from impflow_zoo.training.optimisation import moving_average
from impflow_zoo.training.recipe import Recipe, TrainingSettings, read_recipe
from impflow_zoo.training.run import open_splits
from impflow_zoo.transforms.base import NUMERICAL_ERRORS

PICTURE = ROOT / "docs" / "pictures" / "time-to-quality.png"
STARTED_ON = 64  # images that layers start from
VALIDATIONS = 10
ORDER = ("ours", "public code")
Curve = list[tuple[float, float]]  # CPU minutes and bits/dim


class Side:
    """A model that is trained, and how its averaged weights get into a model of ours.

    Arguments:
        model: what to train.
        settings: how.
        ours: a model of ours of the same shape.
        hand_over: puts the weights of a model like `model` into ours.
        after_step: what the maker's users have to call after a step of the optimizer.
    """

    def __init__(
        self,
        model: FlowModel,
        settings: TrainingSettings,
        ours: FlowModel,
        hand_over: Callable[[FlowModel, FlowModel], None],
        after_step: Callable[[], None] = lambda: None,
    ) -> None:
        self.model, self.settings, self.ours = model, settings, copy.deepcopy(ours)
        self.hand_over, self.after_step = hand_over, after_step
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.weights,
            lr=settings.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=settings.weight_decay,
        )
        self.averaged = [weight.detach().clone() for weight in self.weights]
        self.average = moving_average(settings.ema_decay)
        self.step, self.seconds, self.curve = 0, 0.0, Curve()

    def train(self, x: Tensor, part: float) -> None:
        """One step, when so much of the time is used. It is not applied if it fails."""
        start, settings = time.process_time(), self.settings
        torch.manual_seed(mix(settings.seed, Use.STEP, self.step, 0))
        rate = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * min(part, 1.0)))
        warm = min(1.0, (self.step + 1) / max(1, settings.warmup_steps))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * warm
        self.model.train()
        self.optimizer.zero_grad()
        norm = math.nan
        with warnings.catch_warnings(), contextlib.suppress(*NUMERICAL_ERRORS):
            warnings.simplefilter("ignore", NumericalWarning)
            (-self.model.log_prob(x).mean()).backward()
            with_gradient = [w for w in self.weights if w.grad is not None]
            norm = float(torch.nn.utils.clip_grad_norm_(with_gradient, settings.clip_norm))
        if math.isfinite(norm):
            self.optimizer.step()
            self.after_step()
            current = [weight.detach() for weight in self.weights]
            self.average(self.averaged, current, self.step)
        self.step += 1
        self.seconds += time.process_time() - start

    def validate(self, rows: Source) -> float:
        """Bits/dim of the averaged weights, added to the curve."""
        current = [weight.detach().clone() for weight in self.weights]
        self._put(self.averaged)
        self.hand_over(self.model, self.ours)
        self._put(current)
        found = score(
            self.ours.eval(), rows, seed=self.settings.seed, limit=self.settings.validation_limit
        )
        value = float(self.ours.preprocessing.metric(found.log_prob).mean())
        self.curve.append((self.seconds / 60, value))
        return value

    @torch.no_grad()
    def _put(self, values: Sequence[Tensor]) -> None:
        for weight, value in zip(self.weights, values, strict=True):
            weight.copy_(value)

    def save(self, path: Path) -> None:
        """Write everything that going on needs."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averaged": self.averaged,
            "progress": (self.step, self.seconds, self.curve),
        }
        new = path.with_suffix(".new")
        torch.save(state, new)
        new.replace(path)

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote."""
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.averaged = state["averaged"]
        self.step, self.seconds, curve = state["progress"]
        self.curve = [(minutes, value) for minutes, value in curve]


def take(model: FlowModel, ours: FlowModel) -> None:
    """Put the weights of a model of ours into another."""
    ours.load_state_dict(model.state_dict())


def started(recipe: Recipe, rows: Source) -> FlowModel:
    """The recipe's model of ours, whose layers have seen their first batch."""
    settings = recipe.runs[0]
    torch.manual_seed(settings.seed)
    model = model_class(recipe.model)(recipe.config)
    many = Batches(rows, STARTED_ON, flip=settings.flip, seed=settings.seed)
    with torch.no_grad():
        model.train().encode(model.dequantise(*many.of(0)).float())
    return model


def sides(recipe: Recipe, other: Recipe, rows: Source, public: Path) -> dict[str, Side]:
    """Ours by a recipe and the public code's by another: with the same weights, if they agree."""
    model, like = started(recipe, rows), started(other, rows)
    theirs, after_step = public_model(like, public)
    return {
        "ours": Side(model, recipe.runs[0], model, take),
        "public code": Side(theirs, other.runs[0], like, give_back, after_step),
    }


def run(side: Side, batches: Batches, rows: Source, minutes: float, name: str, file: Path) -> None:
    """Train for a tenth of the time, less what was used of it already, and score."""
    due = minutes * 60 * (len(side.curve) + 1) / VALIDATIONS
    while side.seconds < due:
        x = side.model.dequantise(*batches.of(side.step)).float()
        side.train(x, side.seconds / 60 / minutes)
    value = side.validate(rows)
    side.save(file)
    print(f"{name}: {side.seconds / 60:.2f} min, {side.step} steps, {value:.4f}", flush=True)


def minutes_until(curve: Curve, value: float) -> float:
    """When a curve first reaches a value, straight lines between its points; infinity if never."""
    before: tuple[float, float] | None = None
    for minutes, reached in curve:
        if reached <= value:
            if before is None or reached == before[1]:
                return minutes
            part = (before[1] - value) / (before[1] - reached)
            return before[0] + part * (minutes - before[0])
        before = minutes, reached
    return math.inf


def factor(curves: dict[str, Curve]) -> tuple[float, float]:
    """The public code's best bits/dim, and how many times sooner ours got there."""
    theirs = curves["public code"]
    goal = min(value for _, value in theirs)
    return goal, minutes_until(theirs, goal) / minutes_until(curves["ours"], goal)


def tables(curves: dict[str, Curve]) -> dict[str, str]:
    """Values of both sides by CPU minutes, and the factor in words."""
    rows = [
        (f"{minutes:.0f}", f"{ours:.3f}", f"{theirs:.3f}")
        for (minutes, ours), (_, theirs) in zip(*(curves[name] for name in ORDER), strict=True)
    ]
    said = f"{in_words(curves)}."
    return {"quality table": f"{markdown('CPU minutes | ours | public code', rows)}\n\n{said}"}


def in_words(curves: dict[str, Curve]) -> str:
    """The factor; it may be larger if ours was there before its first validation."""
    goal, times = factor(curves)
    least = "at least " if curves["ours"][0][1] <= goal else ""
    return f"{goal:.3f} bits/dim, the public code's best: {least}{times:.1f} times sooner by ours"


def draw(curves: dict[str, Curve], path: Path) -> None:
    """Bits/dim on validation against minutes."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(5, 3.6), layout="constrained")
    axes = picture.subplots()
    for name, curve in curves.items():
        axes.plot(*zip(*curve, strict=True), marker=".", label=name)
    axes.set(xlabel="CPU minutes of one thread", ylabel="bits/dim on validation")
    axes.grid(alpha=0.3)
    axes.legend()
    picture.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data")
    parser.add_argument("--public", type=Path, required=True, help="a checkout")
    parser.add_argument(
        "--public-set", nargs="*", default=[], help="section.key=value for its side"
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="CPU minutes of each side")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--publish", action="store_true", help="write the document's table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    recipe = read_recipe(options.recipe)
    settings = recipe.runs[0]
    rows, validation = open_splits(recipe, options.data)
    options.out.mkdir(parents=True, exist_ok=True)
    other = read_changed(options.recipe, options.public_set)
    both: dict[str, Any] = sides(recipe, other, rows, options.public)
    files = {name: options.out / f"{name.replace(' ', '-')}.pt" for name in both}
    for name, side in both.items():
        if options.resume and files[name].exists():
            side.load(files[name])
    batches = Batches(rows, settings.batch_size, flip=settings.flip, seed=settings.seed)
    for count in range(1, VALIDATIONS + 1):
        for name, side in both.items():
            if len(side.curve) < count:
                run(side, batches, validation, options.minutes, name, files[name])
        curves = {name: side.curve for name, side in both.items()}
        (options.out / "curves.json").write_text(json.dumps(curves))
    draw(curves, options.out / "curves.png")
    if options.publish:
        publish(README, tables(curves), curves, "time-to-quality")
        shutil.copyfile(options.out / "curves.png", PICTURE)
    print(in_words(curves))


if __name__ == "__main__":
    with in_one_line():
        main()
