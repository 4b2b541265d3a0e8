"""The data that a recipe names: what a model is trained on and scored on."""

from __future__ import annotations

from dataclasses import dataclass

from impflow_zoo.models.fields import ConfigError, convert, require_choice, require_sizes
from impflow_zoo.models.filenames import RECIPE
from impflow_zoo.models.folder import ModelFolder
from impflow_zoo.models.reading import read_yaml

__all__ = ["DataSettings", "stated_data"]

_MOST = 10**12  # rows


@dataclass(frozen=True)
class DataSettings:
    """The data of a recipe.

    Arguments:
        dataset: Hub id or `toy:NAME`; None if users must name the data (`--data`).
        revision: commit of the data set on the Hub.
        train: split to train on.
        validation: split that selects the weights that are kept; None if there is none.
        test: split that the card reports.
        validation_rows: number of rows from the end of `train` to hold out, instead of the split
            `validation`.
        train_rows: number of training rows to draw, for toys.
        corrupt: treatment of an image that cannot be decoded: `"stop"` names it and ends the run,
            `"skip"` names it and leaves it out of its batch, or of the validation split. The log
            counts such images in training as `left_out`.
        weights: column of a table that holds the weights of its rows, at least 0: a row of weight 2
            counts as two rows, in training, validation and evaluation. None counts all alike.
    """

    dataset: str | None = None
    revision: str | None = None
    train: str = "train"
    validation: str | None = "validation"
    test: str = "test"
    validation_rows: int | None = None
    train_rows: int | None = None
    corrupt: str = "stop"
    weights: str | None = None

    def __post_init__(self) -> None:
        require_choice("corrupt", self.corrupt, ("stop", "skip"))
        if self.revision is not None and self.dataset is None:
            raise ConfigError("data.revision needs a Hub set in data.dataset")
        require_sizes(self, "train_rows", most=10_000_000)
        require_sizes(self, "validation_rows", most=_MOST)


def stated_data(folder: ModelFolder) -> tuple[DataSettings, str]:
    """What the recipe in a model's folder says of its data, and the name and address of the data.

    Raises:
        ConfigError: if the recipe is damaged.
    """
    if not folder.has(RECIPE):
        return DataSettings(), ""
    sections = read_yaml(folder.path / RECIPE, f"recipe {folder.path / RECIPE}")
    if not isinstance(sections, dict):
        raise ConfigError(f"recipe {folder.path / RECIPE} holds no settings")
    card = sections.get("card", {})
    words = [card.get(key) for key in ("data_name", "data_url")] if isinstance(card, dict) else []
    data = convert(sections.get("data", {}), DataSettings, "data")
    return data, " ".join(str(word) for word in words if word)
