"""Staging: from a finished run to a folder of the zoo, with its card, pictures and figures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from impflow_zoo import pictures
from impflow_zoo.evaluation import UNITS, Result, evaluate, shown_rows
from impflow_zoo.models import store
from impflow_zoo.models.config import ModelError
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.recipe import Recipe, read_recipe
from impflow_zoo.training import LOG

__all__ = ["TRAINING", "stage"]

TRAINING = "training.json"
PICTURE, CURVE = "density.png", "curve.png"
_METRICS = {
    "log_likelihood": "Mean log-likelihood in nats per row, in the data's own units",
    "bits": "Mean `-log2 p` per row",
    "bits_per_dim": "Bits per dimension",
}
_CITATIONS = {
    "ImpFlow": """@inproceedings{lu2021implicit,
  title={Implicit Normalizing Flows},
  author={Lu, Cheng and Chen, Jianfei and Li, Chongxuan and Wang, Qiuhao and Zhu, Jun},
  booktitle={International Conference on Learning Representations},
  year={2021},
  url={https://arxiv.org/abs/2103.09527}
}""",
    "ResFlow": """@inproceedings{chen2019residual,
  title={Residual Flows for Invertible Generative Modeling},
  author={Chen, Ricky T. Q. and Behrmann, Jens and Duvenaud, David and Jacobsen, J{\\"o}rn-Henrik},
  booktitle={Advances in Neural Information Processing Systems},
  year={2019},
  url={https://arxiv.org/abs/1906.02735}
}""",
}


def stage(
    run: Path | None, folder: Path, *, data: str | None = None, split: str | None = None
) -> Result:
    """Bring a model's folder up to date: weights from a run, figures, pictures, card.

    Arguments:
        run: folder of a training run; None keeps the weights that are in `folder`.
        folder: folder of the model, with its `recipe.yaml`.
        data: what to score on; None takes the split that ships with the model, else the recipe's.
        split: split of the data; None takes the recipe's test split.

    Returns:
        The score that the card reports.

    Raises:
        ModelError: if the run has no weights or the folder no recipe.
    """
    recipe = read_recipe(folder / store.RECIPE)
    if run is not None:
        _copy_run(run, folder)
    model = FlowModel.from_pretrained(folder, verify=True)
    if data is not None:
        split = split or recipe.data.test
    result = evaluate(model, data, split, progress=True)
    pictures.draw_density(model, shown_rows(model, result), folder / PICTURE)
    facts = TrainingFacts.read(folder)
    pictures.draw_curve(
        [(rows, seconds / 60, value) for rows, seconds, value in facts.curve],
        UNITS[model.config.metric],
        folder / CURVE,
    )
    card = _card(folder.name, model, recipe, result, facts)
    store.write_whole(folder / store.CARD, card.encode())
    return result


def _copy_run(run: Path, folder: Path) -> None:
    if not (run / store.WEIGHTS).is_file():
        raise ModelError(f"{run} holds no weights yet: a run keeps them at its first validation")
    facts = json.dumps(summarise(run / LOG), indent=1) + "\n"
    names = (store.WEIGHTS, store.GOLDEN, store.CONFIG)
    contents = {folder / name: (run / name).read_bytes() for name in names}
    store.write_together({**contents, folder / TRAINING: facts.encode()})


def summarise(log: Path) -> dict[str, Any]:
    """What a training log says of cost and progress."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    curve = [
        [line["rows_seen"], line["seconds"], round(line["validation"], 5)]
        for line in lines
        if "validation" in line
    ]
    hardware = next((line["hardware"] for line in lines if "hardware" in line), "not recorded")
    skipped = max((line.get("skipped", 0) for line in lines), default=0)
    unconverged = [line["unconverged"] for line in lines if "unconverged" in line]
    return {
        "steps": lines[-1]["step"],
        "rows_seen": lines[-1]["rows_seen"],
        "minutes": round(lines[-1]["seconds"] / 60, 1),
        "hardware": hardware,
        "skipped_steps": skipped,
        "unconverged_fraction": sum(unconverged) / len(unconverged) if unconverged else 0.0,
        "curve": curve,
    }


@dataclass(frozen=True)
class TrainingFacts:
    """What `training.json` says."""

    steps: int
    rows_seen: int
    minutes: float
    hardware: str
    skipped_steps: int
    unconverged_fraction: float
    curve: list[list[float]]

    @classmethod
    def read(cls, folder: Path) -> TrainingFacts:
        path = folder / TRAINING
        if not path.is_file():
            raise ModelError(f"{folder} has no {TRAINING}: stage it from a run")
        return cls(**json.loads(path.read_text()))


def _card(name: str, model: FlowModel, recipe: Recipe, result: Result, facts: TrainingFacts) -> str:
    words, image = recipe.card, len(model.config.shape) == 3
    bounds = [c.bound for c in store.read_config(store.open_files(model.origin or "")).certificate]
    known = [b for b in bounds if b is not None]
    certified = len(known) == len(bounds) and max(known) < 1
    settings = recipe.training
    needs_data = recipe.data.dataset is None
    metadata = ModelCardData(
        license="mit",
        library_name="impflow_zoo",
        pipeline_tag="unconditional-image-generation" if image else None,
        tags=["normalizing-flow", "density-estimation", type(model).__name__.lower()],
        datasets=[words.dataset_id] if words.dataset_id else None,
        metrics=[result.metric],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="density-estimation",
                dataset_type=words.dataset_id or words.data_name,
                dataset_name=words.data_name,
                dataset_split=recipe.data.test,
                metric_type=result.metric,
                metric_value=round(result.value, 5),
                metric_args={
                    "stderr": round(result.stderr, 5),
                    "estimator_stderr": float(f"{result.estimator_stderr:.3g}"),
                    "n": result.n,
                    "seed": result.seed,
                },
            )
        ],
    )
    estimator = (
        "log-determinants are exact."
        if result.logdet == "exact"
        else f"that of the log-det estimator is {result.estimator_stderr:.1e}."
    )
    card = ModelCard.from_template(
        metadata,
        template_str=_template(),
        name=name,
        summary=words.summary,
        picture_text="sample grid" if image else "the learned density beside held-out data",
        unit=UNITS[result.metric],
        parameters=f"{sum(p.numel() for p in model.parameters()):,}",
        value=f"{result.value:.3f}",
        stderr=f"{result.stderr:.3f}",
        beside=words.beside,
        metric_text=_METRICS[result.metric],
        n=f"{result.n:,}",
        split_text="test images" if image else "test rows",
        seed=result.seed,
        estimator_text=estimator,
        evaluate_options=" --dataset FOLDER --split test"
        if needs_data and not _ships(model)
        else "",
        image=image,
        columns=", ".join(getattr(model.config, "columns", ())),
        rounding=_rounding_text(model),
        training_text=(
            f"{facts.steps:,} steps of {settings.batch_size} rows ({facts.rows_seen:,} rows seen), "
            f"{facts.minutes:.0f} minutes on {facts.hardware}: Adam(0.9, 0.99), learning rate "
            f"{settings.learning_rate:g}, weights averaged (decay {settings.ema_decay:g}), the "
            f"best on the validation split kept. {facts.skipped_steps} steps skipped; "
            f"{facts.unconverged_fraction:.1e} of the roots missed the training tolerance."
        ),
        train_options=" --data FOLDER" if needs_data else "",
        nets=len(bounds),
        bound=f"{max(known):.4f}" if known else "none",
        margin=f"{1 - max(known):.4f}" if certified else "not certified",
        round_trip=f"{result.round_trip:.1e}",
        limits=words.limits,
        data_name=words.data_name,
        data_url=words.data_url,
        data_license=words.data_license,
        data_citation=words.data_citation,
        citation=_CITATIONS[type(model).__name__],
    )
    return str(card)


def _template() -> str:
    return resources.files("impflow_zoo").joinpath("templates/card.md.jinja").read_text()


def _ships(model: FlowModel) -> bool:
    files = store.open_files(model.origin or "")
    return store.optional_path(files, store.TEST_ROWS) is not None


def _rounding_text(model: FlowModel) -> str:
    steps = getattr(model.config, "rounding", ())
    if not any(steps):
        return ""
    return (
        "Values are rounded in the data; uniform noise of one rounding step "
        f"({', '.join(f'{s:g}' for s in steps)}) was added before training and is added, seeded by "
        "row, before scoring: a density could otherwise gain without bound by fitting the grid."
    )
