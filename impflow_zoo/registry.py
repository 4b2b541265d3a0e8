"""The zoo: the names of its models, and where their files are."""

from __future__ import annotations

import difflib
import fnmatch
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from impflow_zoo.models.fields import ConfigError, ModelError
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.folder import CARD, CONFIG, RECIPE, TEST_ROWS, WEIGHTS, ModelFolder
from impflow_zoo.recipe import CardSettings, DataSettings, read_recipe
from impflow_zoo.record import Entry, Record

__all__ = [
    "Split",
    "create_model",
    "list_models",
    "locate",
    "refuse_two_meanings",
    "scored_split",
    "zoo_folder",
]

NAMESPACE_VARIABLE = "IMPFLOW_ZOO_NAMESPACE"
_NAMESPACE = "impflow-zoo"


def zoo_folder() -> Path:
    """The folder of all models: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "hub_configs"
    return installed if installed.is_dir() else package.parent / "hub_configs"


def list_models(pattern: str = "*", *, pretrained: bool | None = True) -> list[str]:
    """Names of the models of the zoo.

    Arguments:
        pattern: a part of the names, or a shell-style pattern such as `resflow-*`.
        pretrained: True for models with weights, False for recipes without, None for both.

    Example:
        >>> "impflow-power-plant" in list_models("impflow-*", pretrained=True)
        True
    """
    found = [Record(ModelFolder(path.parent)) for path in sorted(zoo_folder().glob(f"*/{CONFIG}"))]
    return [
        record.name
        for record in found
        if (pattern in record.name or fnmatch.fnmatch(record.name, pattern))
        and (pretrained is None or record.trained == pretrained)
    ]


def create_model(model: str | os.PathLike[str], **options: Any) -> FlowModel:
    """Load a model of any class by its name in the zoo, by Hub id, or from a folder.

    Arguments:
        model: a name from `list_models`, a Hub id (`owner/name`, `owner/name@revision`), or a
            local folder.
        options: as in `from_pretrained`.

    Raises:
        ModelError: if there is no such model, or no weights were trained for it.
        huggingface_hub.errors.HfHubHTTPError, LocalEntryNotFoundError: the Hub's own errors, said
            in one line.

    Example:
        >>> create_model("impflow-power-plant").config.features
        5
    """
    return FlowModel.from_pretrained(locate(model, options.get("revision")), **options)


def locate(model: str | os.PathLike[str], revision: str | None = None) -> str:
    """Where a model's files are: a folder or a Hub id.

    Weights that come with the package are taken from there, unless a revision is asked for. A path
    object means a folder.

    Raises:
        ModelError: if a name is unknown, or means a folder here and a model of the zoo.
    """
    if not isinstance(model, str | os.PathLike):
        raise ModelError(
            f"model of type {type(model).__name__}: a name of the zoo, a Hub id or a folder is "
            "needed"
        )
    given = os.fspath(model)
    name, at, asked = given.partition("@")
    if not isinstance(model, str) or "/" in given or os.sep in given:
        return given
    refuse_two_meanings(given)
    if os.path.isdir(given) or os.path.isdir(name):
        return given
    folder = zoo_folder() / name
    if not _in_zoo(name):
        names = list_models(pretrained=None)
        close = difflib.get_close_matches(name, names, n=3) or names
        raise ModelError(
            f"no model {name!r} in the zoo and no folder of that name; there are: "
            + ", ".join(close)
        )
    if (folder / WEIGHTS).is_file() and not (at or revision):
        return str(folder)
    if not Record(ModelFolder(folder)).trained:
        raise ModelError(
            f"there are no weights for {name} yet: {folder / CARD} says how to get them"
        )
    return f"{_hub_id(name)}{at}{asked}"


def refuse_two_meanings(given: str) -> None:
    """Refuse the name of a folder in the working directory that is also a name of the zoo.

    Arguments:
        given: the name, or `name@revision`.

    Raises:
        ModelError: saying how to name either.
    """
    name = given.partition("@")[0]
    folder = zoo_folder() / name
    for here in dict.fromkeys((name, given)):
        if os.path.isdir(here) and _in_zoo(name) and not os.path.samefile(here, folder):
            shipped = here == name and (folder / WEIGHTS).is_file()
            other = folder if shipped else _hub_id(here)
            raise ModelError(
                f"{here} is a folder here and a model of the zoo: write ./{here} for the folder, "
                f"or {other} for the model of the zoo"
            )


def _in_zoo(name: str) -> bool:
    return not name.startswith(".") and (zoo_folder() / name / CONFIG).is_file()


def _hub_id(name: str) -> str:
    return f"{os.environ.get(NAMESPACE_VARIABLE, _NAMESPACE)}/{name}"


@dataclass(frozen=True)
class Split:
    """Rows to score a model on, and the score on its card if the card is about these rows."""

    dataset: str
    split: str | None
    revision: str | None = None
    published: Entry | None = None


def scored_split(
    model: FlowModel,
    dataset: str | os.PathLike[str] | None,
    split: str | None,
    revision: str | None = None,
) -> Split:
    """Choose the data to score a model on, where the user left it open.

    Raises:
        ModelError: if neither the user nor the model's files name a data set, or a revision is
            asked for of data on disk.
    """
    dataset = None if dataset is None else os.fspath(dataset)
    split = None if split is None else str(split)  # `datasets.Split` is no string
    folder, data, words = model.folder, DataSettings(), CardSettings()
    try:
        if folder and folder.has(RECIPE):
            recipe = read_recipe(folder.path / RECIPE)
            data, words = recipe.data, recipe.card
    except ConfigError:  # of another version, or damaged: only the number beside depends on it
        if dataset is None:
            raise
    shipped = folder.file(TEST_ROWS) if folder else None
    entry = Record(folder).entry if folder and split in (None, data.test) else None
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
    own = f"; its card is about the split {data.test!r} of {words.data_name} {words.data_url}"
    if shipped is not None:
        own = f"; only the split {data.test!r} ships with {folder and folder.name}, in one revision"
    raise ModelError(
        "no data to evaluate on: name a Hub id, folder, file or toy:NAME (dataset=, --dataset)"
        f"{own.rstrip() if shipped or words.data_name else ''}"
    )
