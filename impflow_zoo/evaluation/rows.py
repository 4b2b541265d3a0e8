"""Which rows a model is scored on, where the user left it open."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

from impflow_zoo.data.weights import require_name
from impflow_zoo.evaluation.entries import Entry, card_entry
from impflow_zoo.models.data_settings import DataSettings, stated_data
from impflow_zoo.models.fields import ConfigError, ModelError
from impflow_zoo.models.filenames import TEST_ROWS
from impflow_zoo.models.flow import FlowModel

__all__ = ["Split", "column_of_weights", "scored_split"]


@dataclass(frozen=True)
class Split:
    """Rows to score a model on.

    Arguments:
        dataset, split, revision: as for `evaluate`.
        published: the score on the model's card, if the card is about these rows.
    """

    dataset: str
    split: str | None
    revision: str | None = None
    published: Entry | None = None


def column_of_weights(model: FlowModel, weights: str | None) -> str | None:
    """The column that holds the weights of rows; None if all count alike.

    Arguments:
        model: whose recipe may name the column.
        weights: what the user named; None leaves it to the recipe, `""` counts all rows alike.

    Raises:
        DataError: if it is no name.
    """
    if weights is not None:
        require_name(weights)
    if weights is None and model.folder is not None:
        with suppress(ConfigError):  # of another version, or damaged
            weights = stated_data(model.folder)[0].weights
    return weights or None


def scored_split(
    model: FlowModel,
    dataset: str | os.PathLike[str] | None,
    split: str | None,
    revision: str | None = None,
) -> Split:
    """Choose the data to score a model on, where the user left it open.

    Arguments:
        model: the model, whose folder may name or hold the data.
        dataset, split, revision: as for `evaluate`.

    Raises:
        ModelError: if neither the user nor the model's files name a data set, or a revision is
            asked for of data on disk.
    """
    dataset = None if dataset is None else os.fspath(dataset)
    split = None if split is None else str(split)  # `datasets.Split` is no string
    folder, data, name = model.folder, DataSettings(), ""
    try:
        if folder:
            data, name = stated_data(folder)
    except ConfigError:  # of another version, or damaged: only the number beside depends on it
        if dataset is None:
            raise
    shipped = folder.file(TEST_ROWS) if folder else None
    entry = card_entry(folder) if folder and split in (None, data.test) else None
    if dataset is not None and revision is not None and os.path.exists(dataset):
        raise ModelError(f"{dataset} is on disk and has no revisions: leave revision= out")
    if dataset is None:
        if shipped is not None and split in (None, data.test) and revision is None:
            return Split(str(shipped), None, None, entry)
        dataset, revision = data.dataset, revision or data.revision
    if dataset is not None:
        # Rows on disk may be any rows, but for the file that the card is about.
        of_card = (dataset, revision) == (data.dataset, data.revision)
        if os.path.exists(dataset):
            of_card = shipped is not None and os.path.samefile(dataset, shipped)
        split = split or (data.test if dataset == data.dataset else None)
        return Split(dataset, split, revision, entry if of_card else None)
    remedy = (
        "name a Hub id, folder, file or toy:NAME by --dataset (stage: --data, Python: dataset=)"
    )
    if shipped is not None:
        remedy += (
            f"; only the split {data.test!r} ships with {folder and folder.name}, in one revision"
        )
    elif name:
        remedy = (
            f"the test rows of this model do not come with it. Get {name}, then add --dataset "
            f"FOLDER --split {data.test} (stage: --data FOLDER; Python: dataset=, split=)"
        )
    raise ModelError(f"no data to evaluate on: {remedy}")
