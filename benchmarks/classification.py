"""Classifiers of CIFAR-10 with implicit blocks, residual blocks of the same bound, and a ResNet.

    python benchmarks/classification.py train --kind implicit --bound 0.9 --out runs/classifier
    python benchmarks/classification.py table --out runs/classification [--resume]
    python benchmarks/classification.py table --width 16 --steps 15000 --bound 0.9 --seeds 1 \
        --out runs/classification20
    python benchmarks/classification.py page --runs runs/classification

`table` trains all classifiers in the table of notebook/classification.md, one after the other.
`page` writes the table and its picture. `--dry-run` uses made-up images, two steps and few rows.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from classification_page import write_page
from classifier import CLASSES, KINDS, Classifier, load, save
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from impflow_zoo.data import DataError
from impflow_zoo.data.images import ImageSource
from impflow_zoo.data.loading import find_images
from impflow_zoo.data.pixels import ImageFormat
from impflow_zoo.models.mistakes import in_one_line
from impflow_zoo.models.writing import write_whole
from impflow_zoo.numerics.seeds import mix
from impflow_zoo.training.checkpoint import (
    CheckpointError,
    checkpoint_state,
    read_checkpoint,
    write_checkpoint,
)

# Bounds and seeds, what tells most first. The ResNet is trained beside the first bound.
TABLE = ((0.9, 0), (0.6, 0), (0.99, 0), (0.9, 1), (0.9, 2), (0.8, 0), (0.7, 0))
EVERY = 100  # steps from one checkpoint to the next
VALIDATION = 2000  # rows of the training split, its last ones
CHECKPOINT, WEIGHTS, RESULT = "checkpoint.safetensors", "model.safetensors", "result.json"

app = typer.Typer(
    help=__doc__,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@dataclass(frozen=True)
class Images:
    """Images as uint8, `[N, 3, 32, 32]`, and the numbers of their classes, `[N]`."""

    pixels: Tensor
    labels: Tensor

    def __getitem__(self, rows: Tensor | slice) -> Images:
        return Images(self.pixels[rows], self.labels[rows])

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Settings:
    """The settings of a run.

    Arguments:
        kind: kind of the blocks.
        bound: Lipschitz constant of every convolution in a block; None for no bound.
        seed: seed of weights, order of the images, crops and flips.
        width: channels of the first stage.
        steps: steps of the optimizer.
        batch_size: images per step.
        rate: largest learning rate.
    """

    kind: str = "implicit"
    bound: float | None = 0.9
    seed: int = 0
    width: int = 8
    steps: int = 2000
    batch_size: int = 64
    rate: float = 1e-2

    def classifier(self) -> Classifier:
        """A fresh classifier."""
        torch.manual_seed(self.seed)
        return Classifier(self.kind, self.bound, self.width)

    @property
    def name(self) -> str:
        """Of its folder."""
        bound = "" if self.bound is None else f"-{self.bound:g}"
        return f"{self.kind}{bound}-seed{self.seed}"


def read(dataset: str, split: str, *, made_up: bool) -> Images:
    """One split of a set of colour images with labels.

    Raises:
        DataError: if there is no such set, or no column of images or labels.
    """
    if made_up:
        generator = torch.Generator().manual_seed(len(split))
        pixels = torch.randint(256, (64, 3, 32, 32), dtype=torch.uint8, generator=generator)
        return Images(pixels, torch.arange(64) % CLASSES)
    found = find_images(dataset, split)
    data, name = found.data, found.name
    labels = next((column for column in ("label", "labels") if column in data.features), None)
    if labels is None:
        raise DataError(f"{name}: no column label, only {', '.join(data.features)}")
    source = ImageSource(name, data, ImageFormat(3, (32, 32)))
    return Images(source.rows(range(len(data))), torch.tensor(data[labels]))


def augmented(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Random crops of images that were padded by four pixels, half of them flipped."""
    n, _, height, width = pixels.shape
    top, left = torch.randint(9, (2, n, 1), generator=generator)
    rows, columns = top + torch.arange(height), left + torch.arange(width)
    flipped = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.where(flipped, columns.flip(1), columns)
    image, padded = torch.arange(n)[:, None, None], functional.pad(pixels, [4] * 4)
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def batches(images: Images, settings: Settings, start: int) -> Iterator[Images]:
    """The batches of the steps from `start` on: each depends on its number and the seed alone."""
    each = max(len(images) // settings.batch_size, 1)
    for step in range(start, settings.steps):
        epoch, place = divmod(step, each)
        order = torch.Generator().manual_seed(mix(settings.seed, 0, epoch))
        index = torch.randperm(len(images), generator=order)
        rows = images[index[place * settings.batch_size :][: settings.batch_size]]
        generator = torch.Generator().manual_seed(mix(settings.seed, 1, step))
        yield replace(rows, pixels=augmented(rows.pixels, generator))


def rate(settings: Settings, step: int) -> float:
    """The learning rate of a step: up over a tenth of them, then down as a cosine."""
    up = max(settings.steps // 10, 1)
    falling = (1 + math.cos(math.pi * (step - up) / max(settings.steps - up, 1))) / 2
    return settings.rate * min((step + 1) / up, falling if step >= up else 1.0)


@torch.no_grad()
def evaluate(classifier: Classifier, images: Images) -> dict[str, Any]:
    """Error with its standard error, and evaluations of a net for each root."""
    classifier.eval()
    wrong, iterations = [], []
    for start in range(0, len(images), 250):
        part = images[slice(start, start + 250)]
        scores = classifier(part.pixels / 255)
        wrong.append((scores.argmax(1) != part.labels).double())
        iterations += classifier.iterations()
    error = float(torch.cat(wrong).mean())
    return {
        "error": error,
        "stderr": math.sqrt(error * (1 - error) / len(images)),
        "rows": len(images),
        "iterations": sum(iterations) / len(iterations) if iterations else None,
    }


def run(settings: Settings, train: Images, test: Images | None, out: Path, *, resume: bool) -> None:
    """Train and score one classifier, and write its weights and result to a folder.

    Without test images it is scored on validation images alone, to choose settings by.

    Raises:
        CheckpointError: if the folder holds a run of other settings, or one that is not to be
            resumed.
    """
    checkpoint, kept = out / CHECKPOINT, min(VALIDATION, len(train) // 2)
    done = next((path for path in (out / RESULT, checkpoint) if path.is_file()), None)
    if done is not None:
        finished = done.name == RESULT
        before = json.loads(done.read_text()) if finished else checkpoint_state(checkpoint)
        if not resume:
            raise CheckpointError(f"{out} holds a run already: resume it, or choose another folder")
        if any(before[name] != value for name, value in asdict(settings).items()):
            raise CheckpointError(f"{done} is of a run with other settings: choose another folder")
        if finished:
            return
    out.mkdir(parents=True, exist_ok=True)
    classifier = settings.classifier()
    optimizer = torch.optim.Adam(classifier.parameters(), lr=settings.rate, betas=(0.9, 0.99))
    state: dict[str, Any] = {**asdict(settings), "step": 0, "seconds": 0.0, "evaluations": 0.0}
    if done is not None:
        state = read_checkpoint(checkpoint, {"classifier": classifier}, {"optimizer": optimizer})
    bar = tqdm(
        batches(train[: len(train) - kept], settings, state["step"]),
        desc=settings.name,
        total=settings.steps,
        initial=state["step"],
    )
    for batch in bar:
        start = time.process_time()
        optimizer.param_groups[0]["lr"] = rate(settings, state["step"])
        loss = functional.cross_entropy(classifier.train()(batch.pixels / 255), batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        state["step"] += 1
        state["seconds"] += time.process_time() - start
        iterations = classifier.iterations()
        state["evaluations"] += sum(iterations) / max(len(iterations), 1)
        if state["step"] % EVERY == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
            write_checkpoint(
                checkpoint, {"classifier": classifier}, {"optimizer": optimizer}, state
            )
    save(classifier, out / WEIGHTS)
    result = asdict(settings) | {
        "parameters": sum(p.numel() for p in classifier.parameters()),
        "seconds_per_step": state["seconds"] / settings.steps,
        "iterations": state["evaluations"] / settings.steps or None,
        "validation": evaluate(classifier, train[len(train) - kept :]),
    }
    if test is not None:
        result["test"] = evaluate(load(out / WEIGHTS), test)
    write_whole(out / RESULT, (json.dumps(result, indent=1) + "\n").encode())
    checkpoint.unlink(missing_ok=True)


Dataset = Annotated[str, typer.Option(help="CIFAR-10: Hub id, or folder.")]
Steps = Annotated[int, typer.Option(min=1, help="Steps of the optimizer in each run.")]
# Below eight channels, oneDNN writes past the gradient of a strided 1x1 kernel on AVX2 processors.
Width = Annotated[int, typer.Option(min=8, help="Channels of the first stage.")]
BatchSize = Annotated[int, typer.Option(min=2, help="Images per step.")]
Rate = Annotated[float, typer.Option(help="Largest learning rate.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue runs that stopped.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Made-up images, two steps, few rows.")]
Out = Annotated[Path, typer.Option(help="Folder for weights and results.")]


def sized(settings: Settings, *, few: bool) -> Settings:
    """The settings, as small as they can be if that is asked for."""
    return replace(settings, steps=2, width=8, batch_size=8) if few else settings


@app.command("train")
def train_(
    kind: Annotated[str, typer.Option(help=", ".join(KINDS))] = "implicit",
    bound: Annotated[float, typer.Option(help="Lipschitz constant of every convolution.")] = 0.9,
    seed: int = 0,
    out: Out = Path("runs/classifier"),
    dataset: Dataset = "uoft-cs/cifar10",
    width: Width = Settings.width,
    steps: Steps = Settings.steps,
    batch_size: BatchSize = Settings.batch_size,
    rate: Rate = Settings.rate,
    validation_only: Annotated[
        bool, typer.Option("--validation-only", help="Do not use the test split.")
    ] = False,
    resume: Resume = False,
    dry_run: DryRun = False,
) -> None:
    """Train and evaluate one classifier."""
    if kind not in KINDS:
        raise typer.BadParameter(f"{kind!r} is not one of {', '.join(KINDS)}", param_hint="--kind")
    if not 0 < bound < 1:
        raise typer.BadParameter(f"{bound} is not between 0 and 1", param_hint="--bound")
    constant = None if kind == "unconstrained" else bound
    settings = Settings(kind, constant, seed, width, steps, batch_size, rate)
    images = read(dataset, "train", made_up=dry_run)
    test = None if validation_only else read(dataset, "test", made_up=dry_run)
    run(sized(settings, few=dry_run), images, test, out, resume=resume)
    typer.echo((out / RESULT).read_text())


@app.command()
def table(
    out: Out = Path("runs/classification"),
    dataset: Dataset = "uoft-cs/cifar10",
    width: Width = Settings.width,
    steps: Steps = Settings.steps,
    batch_size: BatchSize = Settings.batch_size,
    rate: Rate = Settings.rate,
    resume: Resume = False,
    dry_run: DryRun = False,
    bound_alone: Annotated[
        float | None, typer.Option("--bound", help="This bound alone, beside no bound.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="At most so many seeds.")] = 3,
) -> None:
    """Train all classifiers of the table, each in its own folder."""
    images, test = (read(dataset, split, made_up=dry_run) for split in ("train", "test"))
    for bound, seed in TABLE:
        if seed >= seeds or bound_alone not in (None, bound):
            continue
        for kind in KINDS:
            constant = None if kind == "unconstrained" else bound
            settings = Settings(kind, constant, seed, width, steps, batch_size, rate)
            if constant is not None or bound == TABLE[0][0]:
                small = sized(settings, few=dry_run)
                run(small, images, test, out / settings.name, resume=resume)


@app.command()
def page(
    runs: Annotated[Path, typer.Option(help="Folder that `table` wrote.")] = Path(
        "runs/classification"
    ),
) -> None:
    """Write the table and the picture of the notebook from results of runs and those kept."""
    write_page([json.loads(file.read_text()) for file in sorted(runs.glob(f"*/{RESULT}"))])


if __name__ == "__main__":
    with in_one_line("classification"):
        app()
