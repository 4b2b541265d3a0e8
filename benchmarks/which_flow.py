"""What the families of flows of the zoo cost, data set by data set.

    python benchmarks/which_flow.py [--data kin8nm protein] [--publish]

Measured on one thread: rows a second of CPU time, minutes of training, and round trips. The minutes
are the rows that each stage of the training has seen, times the CPU time of a row, with the batch
size and the optimizers of the stage, the families in turn. Rows are samples of ImpFlow: no data
are needed.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from documents import RESULTS, ROOT, markdown, publish
from torch import Tensor

from impflow_zoo import create_model
from impflow_zoo.models.filenames import GOLDEN
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.folder import ModelFolder, read_safetensors
from impflow_zoo.models.registry import zoo_folder
from impflow_zoo.training.optimisation import optimizers
from impflow_zoo.training.recipe import TrainingSettings
from impflow_zoo.zoo.record import Record

PAGE = ROOT / "benchmarks" / "notebook" / "speed.md"
DATA = (
    "power-plant",
    "kin8nm",
    "protein",
    "bsds300",
    "checkerboard",
    "power-plant-given-weather",
    "protein-given-features",
)
FAMILIES = ("impflow", "resflow", "monotone", "spline", "mixture", "linear", "mixed")
HEADER = "data | family | parameters | minutes | log_prob, rows/s | sample, rows/s | round trip"


def found(data: str) -> dict[str, Record]:
    """The models of a data set that have weights, by family."""
    folders = {family: zoo_folder() / f"{family}-{data}" for family in FAMILIES}
    known = {f: Record(ModelFolder.open(path)) for f, path in folders.items() if path.is_dir()}
    return {family: record for family, record in known.items() if record.entry}


def drawn(model: FlowModel, record: Record, n: int) -> tuple[Tensor, ...]:
    """Samples of a model, and the contexts that they have, if any."""
    generator = torch.Generator().manual_seed(0)
    if model.config.context_features is None:
        return (model.sample(n, generator=generator),)
    golden = read_safetensors(record.folder.path / GOLDEN)["context"].float()
    contexts = golden.repeat(-(-n // len(golden)), 1)[:n]
    return model.sample(1, contexts, generator=generator)[:, 0], contexts


def family(record: Record) -> str:
    """The class of a model; of a mixture of families its blocks, from data to noise."""
    blocks = getattr(record.stated.config, "blocks", None)
    if not isinstance(blocks, tuple):
        return record.stated.model
    runs = [(name, len(list(run))) for name, run in itertools.groupby(blocks)]
    return ", ".join(f"{n} {name}" for name, n in runs)


def rows_a_second(run: Callable[[], object], rows: int, repeats: int) -> float:
    """Of CPU time, the fastest of several runs."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return rows / min(times)


@torch.no_grad()
def measured(model: FlowModel, batch: tuple[Tensor, ...], repeats: int) -> dict[str, float]:
    """Speeds, and the worst round trip in standard deviations of a column."""
    x, *context = batch
    back = model.decode(model.encode(*batch), *context)

    def sample() -> Tensor:
        return model.sample(1, *context) if context else model.sample(len(x))

    return {
        "log_prob": rows_a_second(lambda: model.log_prob(*batch), len(x), repeats),
        "sample": rows_a_second(sample, len(x), repeats),
        "round_trip": float(((back - x).abs() / x.std(dim=0)).max()),
    }


def step_seconds(
    trained: Mapping[str, tuple[FlowModel, TrainingSettings]], repeats: int, *batch: Tensor
) -> dict[str, float]:
    """CPU seconds of a training step with each model's optimizers, the median of several in turn.

    The models are trained on meanwhile: give copies. Of the batch, a step takes as many rows as
    its settings say.
    """
    times: dict[str, list[float]] = {name: [] for name in trained}
    optimizers_of = {
        name: optimizers(model.train(), replace(settings, learning_rate=1e-6)).values()
        for name, (model, settings) in trained.items()
    }
    for _ in range(repeats):
        for name, (model, settings) in trained.items():
            start = time.process_time()
            model.zero_grad()
            (-model.log_prob(*(part[: settings.batch_size] for part in batch)).mean()).backward()
            for optimizer in optimizers_of[name]:
                optimizer.step()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(found) for name, found in times.items()}


def training_minutes(
    models: dict[str, FlowModel],
    records: dict[str, Record],
    batch: tuple[Tensor, ...],
    repeats: int,
) -> dict[str, float]:
    """CPU minutes of the training of each model, over all its stages."""
    stages = {
        f"{key} {number}": (copy.deepcopy(models[key]), settings)
        for key, record in records.items()
        for number, settings in enumerate(record.recipe.runs)
    }
    seconds = step_seconds(stages, repeats, *batch)
    minutes = dict.fromkeys(records, 0.0)
    for key, record in records.items():
        for number, part in enumerate(record.facts.parts or (record.facts,)):
            stage = f"{key} {number}"
            rows = min(stages[stage][1].batch_size, len(batch[0]))
            minutes[key] += part.rows_seen / rows * seconds[stage] / 60
    return minutes


def compared(data: str, repeats: int) -> list[dict[str, Any]]:
    """The figures of every family on a data set."""
    records = found(data)
    models = {key: create_model(record.folder.path) for key, record in records.items()}
    batch = drawn(models["impflow"], records["impflow"], 1000)
    figures = {key: measured(model, batch, repeats) for key, model in models.items()}
    minutes = training_minutes(models, records, batch, repeats)
    return [
        {
            "data": data,
            "family": family(record),
            "parameters": record.parameters,
            "minutes": minutes[key],
            **figures[key],
        }
        for key, record in records.items()
    ]


def tables(figures: list[dict[str, Any]]) -> dict[str, str]:
    """The table of the notebook."""
    rows = [
        (
            f["data"],
            f["family"],
            f"{f['parameters']:,}",
            f"{f['minutes']:.1f}",
            *(f"{float(format(f[name], '.2g')):,.0f}" for name in ("log_prob", "sample")),
            f"{f['round_trip']:.0e}",
        )
        for f in figures
    ]
    return {"families of flows table": markdown(HEADER, rows)}


def kept() -> list[dict[str, Any]]:
    """The figures of earlier runs."""
    file = RESULTS / "which-flow.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=DATA)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--publish", action="store_true", help="write the table of the notebook")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = []
    for data in options.data:
        if len(found(data)) > 2:
            figures += compared(data, options.repeats)
    print(*tables(figures).values())
    if options.publish:
        figures += [figure for figure in kept() if figure["data"] not in options.data]
        figures.sort(key=lambda figure: DATA.index(figure["data"]))
        publish(PAGE, tables(figures), figures, "which-flow")


if __name__ == "__main__":
    main()
