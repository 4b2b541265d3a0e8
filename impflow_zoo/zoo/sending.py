"""Uploading models to the Hub: every folder is checked before anything is sent."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path

from huggingface_hub import CommitInfo, HfApi, get_token

from impflow_zoo.models import registry
from impflow_zoo.models.fields import ConfigError, ModelError
from impflow_zoo.models.filenames import CARD, CONFIG, PUBLISHED, RECIPE, TEST_ROWS, WEIGHTS
from impflow_zoo.models.flow import FlowModel
from impflow_zoo.models.folder import ModelFolder
from impflow_zoo.models.hub import check_repository, one_line_errors
from impflow_zoo.models.revisions import pin
from impflow_zoo.zoo.cards import model_card
from impflow_zoo.zoo.record import Record

__all__ = ["Parcel", "Sent", "check", "inspect", "parcels", "publish", "table"]

_SECRET = re.compile(rb"\bhf_[A-Za-z0-9]{16,}")


@dataclass(frozen=True)
class Parcel:
    """A model's folder that was checked.

    Arguments:
        folder: folder of the files.
        files: names of the files to send; empty if there are no weights.
        problems: reasons not to send it.
    """

    folder: Path
    files: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the model, and of its repository in the namespace."""
        return self.folder.name

    @property
    def size(self) -> int:
        """Bytes to be sent."""
        return sum((self.folder / name).stat().st_size for name in self.files)


@dataclass(frozen=True)
class Sent:
    """A commit on the Hub; `pull_request` is its address if it is one.

    `changed` is false if the Hub had these files already: then it is the commit that was there.
    """

    repo_id: str
    commit: str
    url: str
    pull_request: str | None = None
    changed: bool = True

    def __str__(self) -> str:
        if not self.changed:
            return f"{self.repo_id} {self.commit} unchanged"
        return f"{self.repo_id} {self.commit} {self.pull_request or self.url}"


def parcels(models: Sequence[str] = ()) -> list[Parcel]:
    """Check folders of models.

    Arguments:
        models: names of the zoo or folders; all of the zoo if empty.

    Raises:
        ModelError: if one is neither, or both.
    """
    zoo = registry.zoo_folder()
    folders = []
    for model in models:
        registry.refuse_two_meanings(model)
        folder = Path(os.path.abspath(model if os.path.isdir(model) else zoo / model))
        if not (model and _holds_a_model(folder)):
            raise ModelError(f"{model!r} is neither a model of the zoo nor a folder of a model")
        folders.append(folder)
    return [inspect(path) for path in folders or filter(_holds_a_model, sorted(zoo.iterdir()))]


def _holds_a_model(folder: Path) -> bool:
    return (folder / CONFIG).is_file() or (folder / RECIPE).is_file()


def inspect(path: Path) -> Parcel:
    """Check a folder and collect everything that is wrong with it."""
    folder = ModelFolder(path)
    present = tuple(name for name in PUBLISHED if folder.has(name))
    if WEIGHTS not in present and not _promises_weights(folder):
        return Parcel(path)
    problems = [f"no {name}" for name in PUBLISHED if name not in (*present, TEST_ROWS)]
    for name in present:
        if (path / name).is_symlink():
            problems.append(f"{name} is a link, whose target was not checked")
        if _SECRET.search((path / name).read_bytes()):
            problems.append(f"{name} seems to contain an access token")
    if problems:
        return Parcel(path, present, tuple(problems))
    try:
        FlowModel.from_pretrained(path, verify=True)
        record = Record(folder)
        if not record.trained:
            problems.append(f"{CONFIG} records no sha256 of the weights")
        card = (path / CARD).read_bytes().decode("utf-8", errors="replace")
        names = (record.name, f"./{record.name}")  # it may have been staged elsewhere
        if card not in [model_card(record, address=name) for name in names]:
            problems.append(f"{CARD} does not agree with the other files: stage {path} again")
    except ModelError as error:
        problems.append(str(error).removeprefix(f"{path}: "))
    return Parcel(path, present, tuple(problems))


def _promises_weights(folder: ModelFolder) -> bool:
    try:
        return folder.config().sha256 is not None
    except ConfigError:
        return folder.has(CONFIG)


def table(found: Sequence[Parcel], namespace: str) -> str:
    """The models to be sent, those that are not, and why."""
    lines = []
    for parcel in found:
        state = f"{len(parcel.files)} files, {parcel.size:,} bytes"
        state = state if parcel.files else "no weights, not sent"
        lines.append(f"{namespace}/{parcel.name:32} {state}")
        if TEST_ROWS in parcel.files:
            lines.append(f"    {TEST_ROWS} is sent, too: rows of the data, which others can read")
        lines += [f"    {problem}" for problem in parcel.problems]
    return "\n".join(lines)


def publish(
    found: Sequence[Parcel],
    namespace: str,
    *,
    private: bool = False,
    create_pr: bool = False,
) -> Iterator[Sent]:
    """Send checked folders, one commit for each model.

    The card is made for the Hub: its code and commands name the repository. The same commit deletes
    files of earlier versions that the folder no longer has; files that others added stay. A model
    that has not changed makes no commit. `revisions.json` records the commits of models of the zoo,
    unless they are pull requests.

    Arguments:
        found: from `parcels`.
        namespace: user or organisation on the Hub.
        private: new repositories are private.
        create_pr: open pull requests instead of committing.

    Raises:
        ModelError: if a parcel has a problem, or there is no token: nothing is sent then. Also if a
            folder was changed since it was checked, and has a problem now: it is not sent.
        HfHubHTTPError: the Hub's own errors, in one line.
    """
    check(found, namespace)
    if get_token() is None:
        raise ModelError("no access token: log in with `hf auth login`, or set HF_TOKEN")
    api = HfApi(library_name="impflow_zoo")
    going = [(f"{namespace}/{parcel.name}", parcel) for parcel in found if parcel.files]
    for repo_id, _ in going:
        with one_line_errors(repo_id):
            api.create_repo(repo_id, private=private or None, exist_ok=True)
            if private and not api.repo_info(repo_id).private:
                raise ModelError(f"{repo_id} exists and is public: --private does not hide it")
    for repo_id, parcel in going:
        with tempfile.TemporaryDirectory() as elsewhere:
            copy = Path(elsewhere, parcel.name)
            copy.mkdir()
            for name in parcel.files:
                shutil.copy(parcel.folder / name, copy)
            if problems := inspect(copy).problems:
                raise ModelError(f"{parcel.folder} was changed meanwhile: {'; '.join(problems)}")
            card = model_card(Record(ModelFolder(copy)), address=repo_id)
            (copy / CARD).write_text(card, encoding="utf-8")
            with one_line_errors(repo_id):
                known = api.repo_info(repo_id).sha
                commit = _commit(api, repo_id, copy, known, create_pr=create_pr)
        if not create_pr and parcel.folder.parent == registry.zoo_folder():
            pin(registry.zoo_folder(), repo_id, commit.oid)
        changed = commit.oid != known
        yield Sent(repo_id, commit.oid, str(commit.commit_url), commit.pr_url, changed)


def _commit(
    api: HfApi, repo_id: str, folder: Path, parent: str | None, *, create_pr: bool
) -> CommitInfo:
    """Send all files of a folder in one commit."""
    try:
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            delete_patterns=list(PUBLISHED),  # of what is there and not sent
            commit_message=f"Publish {repo_id.partition('/')[2]}",
            create_pr=create_pr,
            parent_commit=parent,  # else two who send at once would mix their files
        )
    except JSONDecodeError:
        raise
    except ValueError as error:  # what the Hub has against the card's metadata
        raise ModelError(f"{repo_id}: {' '.join(str(error).split())}") from None


def check(found: Sequence[Parcel], namespace: str) -> None:
    """Refuse to go on if anything is wrong with any of the models.

    Raises:
        ModelError: naming the models and what is missing.
    """
    for parcel in found:
        check_repository(f"{namespace}/{parcel.name}")
    names = [parcel.name for parcel in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ModelError(f"several folders have the same name: {', '.join(twice)}")
    wrong = [f"{p.name} ({'; '.join(p.problems)})" for p in found if p.problems]
    if wrong:
        lacking = any(text.startswith("no ") for parcel in found for text in parcel.problems)
        hint = "; `impflow-zoo stage FOLDER` makes missing files" if lacking else ""
        raise ModelError(
            f"nothing was sent, these models cannot be published: {', '.join(wrong)}{hint}"
        )
    if not any(parcel.files for parcel in found):
        raise ModelError("nothing to send: none of these models has weights")
