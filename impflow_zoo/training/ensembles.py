"""The models of several trainings as one, in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from impflow_zoo.data import Source, TableSource
from impflow_zoo.evaluation.processes import Processes
from impflow_zoo.evaluation.scoring import score
from impflow_zoo.evaluation.standard_errors import weighted_mean
from impflow_zoo.models.filenames import RECIPE, TRAINING
from impflow_zoo.models.flow import Ensemble, FlowModel
from impflow_zoo.models.folder import ModelFolder
from impflow_zoo.training.facts import TrainingFacts

__all__ = ["join"]


def join(
    runs: Sequence[Path],
    folder: Path,
    validation: Source,
    *,
    recipe: bytes,
    seed: int,
    limit: int | None,
    processes: Processes,
) -> float:
    """Save the mixture of the models of some runs.

    Arguments:
        runs: their folders.
        folder: where the ensemble goes, with its recipe and the cost of all runs.
        validation: the rows to validate it on, `limit` of them at most.
        recipe: the text of its recipe.
        seed: of noise and probes.
        processes: those that share the rows.

    Returns:
        Its mean log-likelihood on the validation rows, in nats.
    """
    models = [FlowModel.from_pretrained(run, device=processes.device) for run in runs]
    ensemble = Ensemble(models).eval()
    found = score(ensemble, validation, seed=seed, limit=limit, processes=processes).log_prob
    weights = validation.weights if isinstance(validation, TableSource) else None
    value = float(weighted_mean(found, None if weights is None else weights[: len(found)]))
    if processes.first:
        facts = [TrainingFacts.read(run) for run in runs]
        whole = replace(
            facts[0],
            **{
                name: sum(getattr(one, name) for one in facts)
                for name in ("steps", "rows_seen", "skipped_steps", "parameters")
            },
            minutes=round(sum(one.minutes for one in facts), 1),
        )
        # The recipe comes first: by it a resumed run knows its own model.
        ModelFolder(folder).replace({TRAINING: whole.text().encode(), RECIPE: recipe})
        ensemble.save_pretrained(folder)
    processes.wait()
    return value
