"""The zoo: the names of its models, and where their files are."""

from __future__ import annotations

import difflib
import fnmatch
import os
from pathlib import Path
from typing import Any

from impflow_zoo.models.fields import ModelError
from impflow_zoo.models.filenames import CONFIG, RECIPE, WEIGHTS
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.folder import ModelFolder, WeightsError
from impflow_zoo.models.hub import snapshot
from impflow_zoo.models.revisions import pinned

__all__ = [
    "create_model",
    "list_models",
    "locate",
    "recipe_path",
    "zoo_folder",
]

NAMESPACE_VARIABLE = "IMPFLOW_ZOO_NAMESPACE"
_NAMESPACE = "impflow-zoo"
_FETCHING = ("token", "cache_dir", "local_files_only", "force_download")


def zoo_folder() -> Path:
    """The folder of all models: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "hub_configs"
    return installed if installed.is_dir() else package.parent / "hub_configs"


def list_models(pattern: str = "*", *, pretrained: bool | None = True) -> list[str]:
    """Names of the models of the zoo.

    Arguments:
        pattern: a part of the names, or a shell-style pattern such as `resflow-*`.
        pretrained: True for models with weights, False for recipes without, None for both.

    Returns:
        Names in alphabetical order.

    Example:
        >>> "impflow-power-plant" in list_models("impflow-*", pretrained=True)
        True
    """
    folders = sorted(path.parent for path in zoo_folder().glob(f"*/{RECIPE}"))
    return [
        folder.name
        for folder in folders
        if (pattern in folder.name or fnmatch.fnmatch(folder.name, pattern))
        and (pretrained is None or _trained(folder) == pretrained)
    ]


def create_model(model: str | os.PathLike[str], **options: Any) -> FlowModel:
    """Load a model of any class by its name in the zoo, by Hub id, or from a folder.

    Weights of the zoo that the package leaves out are loaded from the Hub, at the commit that the
    package names.

    Arguments:
        model: a name from `list_models`, a Hub id (`owner/name`, `owner/name@revision`), or a
            local folder.
        options: as in `from_pretrained`.

    Returns:
        The model in evaluation mode; its class is the one that its config names.

    Raises:
        ModelError: if there is no such model, no weights were trained for it, or the Hub has
            another model under this name than the package.
        huggingface_hub.errors.HfHubHTTPError, LocalEntryNotFoundError: the Hub's own errors, said
            in one line.

    Example:
        >>> create_model("impflow-power-plant").config.features
        5
    """
    fetching = {name: options[name] for name in _FETCHING if name in options}
    where = locate(model, options.get("revision"), **fetching)
    return FlowModel.from_pretrained(where, **options)


def locate(model: str | os.PathLike[str], revision: str | None = None, **options: Any) -> str:
    """Where a model's files are: a folder or a Hub id.

    Weights that come with the package are taken from there, unless a revision is asked for. Others
    are taken from the commit on the Hub that `revisions.json` names. Its config is fetched, and has
    to be that of the package, before anything else is. A path object means a folder.

    Arguments:
        model, revision: as for `create_model`.
        options: how to fetch a config, see `hub.snapshot`.

    Returns:
        The path of a folder, or a Hub id, which is `owner/name` or `owner/name@revision`.

    Raises:
        ModelError: if a name is unknown, means a folder here and a model of the zoo, or is that of
            another model on the Hub.
    """
    if not isinstance(model, str | os.PathLike):
        raise ModelError(
            f"model of type {type(model).__name__}: a model of this package, a name of the zoo, a "
            "Hub id or a folder is needed"
        )
    given = os.fspath(model)
    name, at, asked = given.partition("@")
    if not _is_name(model):
        return given
    refuse_two_meanings(given)
    if os.path.isdir(given) or os.path.isdir(name):
        return given
    folder = zoo_folder() / name
    if not _in_zoo(name):
        raise _unknown(name, "folder", list_models())
    if (folder / WEIGHTS).is_file() and not (at or revision):
        return str(folder)
    if not _trained(folder):
        raise ModelError(
            f"there are no weights for {name}: train them with `impflow-zoo train {name} "
            "--data FOLDER`"
        )
    if at or revision:
        return f"{_hub_id(name)}{at}{asked}"
    return _shipped(name, options)


def recipe_path(recipe: str | os.PathLike[str]) -> Path:
    """The file of a recipe: its own path, or where it lies in the folder of a model.

    Arguments:
        recipe: a `recipe.yaml`, a folder that holds one, or a name from `list_models`. A path
            object means a file or folder.

    Returns:
        The path of the recipe's file, which need not exist.

    Raises:
        ModelError: if a name is unknown, or means a folder here and a model of the zoo.
    """
    given, path = os.fspath(recipe), Path(recipe)
    if _is_name(recipe) and not path.suffix:
        refuse_two_meanings(given)
        if _in_zoo(given):
            path = zoo_folder() / given
        elif not path.exists():
            raise _unknown(given, "recipe or folder", list_models(pretrained=None))
    return path / RECIPE if path.is_dir() else path


def _unknown(name: str, what: str, names: list[str]) -> ModelError:
    close = difflib.get_close_matches(name, names, n=3)
    hint = f"did you mean {', '.join(close)}?" if close else "`impflow-zoo list` shows the zoo"
    return ModelError(
        f"no model {name[:200]!r} in the zoo and no {what} of that name in {Path.cwd()}; {hint}"
    )


def _shipped(name: str, options: dict[str, Any]) -> str:
    """The commit on the Hub whose config, which has the sha256 of the weights, is ours."""
    hub_id = _hub_id(name)
    commit = pinned(zoo_folder(), hub_id)
    path, _ = snapshot(hub_id, (CONFIG,), (CONFIG,), revision=commit, **options)
    if (path / CONFIG).read_bytes() != (zoo_folder() / name / CONFIG).read_bytes():
        raise WeightsError(
            f"{hub_id}@{path.name}: {CONFIG} on the Hub is not the one of this package: upgrade "
            f"impflow_zoo, or name the Hub's model, {hub_id}"
        )
    return f"{hub_id}@{path.name}"


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


def _trained(folder: Path) -> bool:
    """Whether the config records weights, which lie here or on the Hub."""
    return (folder / CONFIG).is_file() and ModelFolder(folder).config().sha256 is not None


def _is_name(model: str | os.PathLike[str]) -> bool:
    """Whether this may be a name of the zoo; a path object is none."""
    return isinstance(model, str) and "/" not in model and os.sep not in model


def _in_zoo(name: str) -> bool:
    folder = zoo_folder() / name
    return not name.startswith(".") and any(os.path.isfile(folder / f) for f in (RECIPE, CONFIG))


def _hub_id(name: str) -> str:
    return f"{os.environ.get(NAMESPACE_VARIABLE, _NAMESPACE)}/{name}"
