"""Files of a Hub repository: all from one commit, every failure said in one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import (
    _CACHED_NO_EXIST,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from impflow_zoo.models.config import ModelError

__all__ = [
    "HubFiles",
    "check_namespace",
    "check_repository",
    "one_line_errors",
    "transfer_errors",
]

_FIRST = "config.json"
_PROBE = "model.safetensors"  # asked for first: it tells in one short try, without the client's
# retries, whether the Hub is there; requests of config.json are counted as downloads
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REVISION = re.compile(r"(?!/)(?!.*\.\.)[\w.+/-]{1,200}")  # a branch may hold '/', never climb
_LIBRARY = "impflow_zoo"  # what the Hub counts downloads under
_LOGIN = "log in with `hf auth login` or give token="


class HubFiles:
    """The files of a model on the Hub.

    The Hub is asked once which commit the revision is, and all files come from that commit: an
    update in between cannot mix old and new. A full commit sha that is in the cache, a cache used
    with `local_files_only`, and offline mode make no request at all.

    Arguments:
        repo_id: `owner/name`.
        revision: branch, tag or commit; None is the default branch.
        token: as in `huggingface_hub`. It is left out of copies and pickles.
        cache_dir, local_files_only, force_download: as in `huggingface_hub`.

    Raises:
        ModelError: if id or revision are none.
    """

    def __init__(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> None:
        check_repository(repo_id)
        if revision is not None and not _REVISION.fullmatch(revision):
            raise ModelError(f"{revision[:80]!r} is no revision: a branch, tag or commit is needed")
        self.repo_id, self.revision = repo_id, revision
        self._token = token
        self._cache_dir = cache_dir
        self._local_only = local_files_only
        self._force = force_download and not local_files_only
        self._commit: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_token": None}

    @property
    def name(self) -> str:
        """The id, with the revision that was asked for."""
        return self.repo_id if self.revision is None else f"{self.repo_id}@{self.revision}"

    def path(self, filename: str) -> Path:
        """Where the file lies in the cache, downloaded if it has to be.

        Raises:
            EntryNotFoundError: if the repository lacks it; `LocalEntryNotFoundError` if it is not
                in the cache and cannot be fetched.
            HfHubHTTPError: what else the Hub may answer.
        """
        if self._commit is None:
            self._commit = self._find_commit()
        if self._cached(filename) is _CACHED_NO_EXIST:
            raise EntryNotFoundError(f"{self.name} has no {filename}")
        return self._download(filename, self._commit)

    def has(self, filename: str) -> bool:
        """Whether the repository has the file; it is not downloaded."""
        if self._local_only:
            return isinstance(self._cached(filename), str)
        url = hf_hub_url(self.repo_id, filename, revision=self._commit or self.revision)
        try:
            with one_line_errors(self.name, filename):
                get_hf_file_metadata(url, token=self._token, library_name=_LIBRARY)
        except EntryNotFoundError:
            return False
        return True

    def _find_commit(self) -> str | None:
        """The commit of the revision; if the Hub cannot be reached, that of the cache."""
        revision = self.revision
        if revision is not None and _COMMIT.fullmatch(revision):
            self._commit = revision
            if isinstance(self._cached(_FIRST), str) and not self._force:
                return revision
        if self._local_only:
            return self._commit_of_first()
        url = hf_hub_url(self.repo_id, _PROBE, revision=revision)
        try:
            with one_line_errors(self.name, _FIRST):
                get_hf_file_metadata(url, token=self._token, library_name=_LIBRARY)
        except RemoteEntryNotFoundError:
            pass  # it has no such file, but it is there
        except RevisionNotFoundError:
            raise
        except (HTTPError, OSError) as error:  # as in huggingface_hub: the cache may still do
            if self._force:
                raise
            self._local_only = True
            try:
                return self._commit_of_first()
            except LocalEntryNotFoundError:
                raise error from None
        try:
            return self._commit_of_first()
        except RemoteEntryNotFoundError as error:
            return error.response.headers.get("x-repo-commit")

    def _commit_of_first(self) -> str:
        """Fetched under the name of its revision, so that the cache learns what that stands for."""
        return self._download(_FIRST, self.revision).parent.name

    def _cached(self, filename: str) -> Any:
        return try_to_load_from_cache(
            self.repo_id, filename, cache_dir=self._cache_dir, revision=self._commit
        )

    def _download(self, filename: str, revision: str | None) -> Path:
        with transfer_errors(self.name, filename):
            path = hf_hub_download(
                self.repo_id,
                filename,
                revision=revision,
                token=self._token,
                cache_dir=self._cache_dir,
                local_files_only=self._local_only,
                force_download=self._force,
                library_name=_LIBRARY,
            )
        return Path(path)


def check_repository(repo_id: str) -> None:
    """Refuse what is no Hub id of the form `owner/name`.

    Raises:
        ModelError: saying so.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        valid = False
    else:
        valid = repo_id.count("/") == 1
    if not valid:
        zoo = "" if "/" in repo_id else "; names of the zoo are for create_model"
        raise ModelError(f"{repo_id[:200]!r} is neither a folder nor a Hub id, 'owner/name'{zoo}")


def check_namespace(namespace: str) -> None:
    """Refuse what is no user or organisation of the Hub.

    Raises:
        ModelError: saying so.
    """
    try:
        check_repository(f"{namespace}/name")
    except ModelError:
        raise ModelError(
            f"namespace {namespace[:200]!r}: the name of one user or organisation is needed"
        ) from None


@contextmanager
def one_line_errors(name: str, filename: str | None = None) -> Iterator[None]:
    """Errors of the Hub keep their type and say in one line what happened and what helps.

    Their own texts are pages of advice, or those of the connection below, which may quote a
    header with a token in it. Failures of the connection come as `LocalEntryNotFoundError`: the
    file could not be fetched, and the cache does not have it.

    Arguments:
        name: what the message calls the repository.
        filename: the file asked for, if it was one.
    """
    file = "" if filename is None else f" ({filename})"
    try:
        yield
    except LocalEntryNotFoundError as error:
        raise LocalEntryNotFoundError(_reason(name, file, error.__cause__)) from None
    except OfflineModeIsEnabled as error:
        raise LocalEntryNotFoundError(_reason(name, file, error)) from None
    except HfHubHTTPError as error:
        error.args = (_reason(name, file, error),)
        raise error from None
    except (HTTPError, UnicodeError) as error:
        raise LocalEntryNotFoundError(_reason(name, file, error)) from None
    except ValueError as error:
        if error.__cause__ is None:
            raise
        # force_download that failed: what failed is the cause
        raise LocalEntryNotFoundError(_reason(name, file, error.__cause__)) from None
    except OSError as error:
        if not str(error).startswith("Consistency check failed"):
            raise
        raise OSError(f"{name}{file}: the download broke off or is damaged: try again") from None


@contextmanager
def transfer_errors(name: str, filename: str | None = None) -> Iterator[None]:
    """`one_line_errors` around what moves content.

    The client of the Hub's storage, Xet, ends in a plain `RuntimeError` where it cannot reach it,
    and in a `FileNotFoundError` that must not be taken for a model without the file.

    Arguments:
        name, filename: as in `one_line_errors`.
    """
    try:
        with one_line_errors(name, filename):
            yield
    except (RuntimeError, OSError) as error:
        if not isinstance(error, RuntimeError) and not type(error).__name__.startswith("Xet"):
            raise
        file = "" if filename is None else f" ({filename})"
        said = f"{name}{file}: the transfer failed: check the network and try again"
        raise LocalEntryNotFoundError(said) from None


def _reason(name: str, file: str, error: BaseException | None) -> str:
    here = "; there is no folder of that name here" if file else ""
    match error:
        case GatedRepoError():
            return f"{name} is gated: ask for access on its page, then {_LOGIN}"
        case RepositoryNotFoundError():
            return f"no repository {name} on the Hub{here}, or a private one: if it is, {_LOGIN}"
        case RevisionNotFoundError():
            return f"{name} has no such revision: no branch, tag or commit of that name"
        case RemoteEntryNotFoundError():
            return f"{name} has no such file{file}"
        case HfHubHTTPError():
            status = error.response.status_code
            advice = {401: _LOGIN, 403: "the token does not allow it", 429: "too many requests"}
            said = " ".join((error.server_message or "").split())[:200]
            what = advice.get(status, said or "try again later")
            return f"{name}{file}: the Hub answered HTTP {status}: {what}"
        case None | OfflineModeIsEnabled():
            return f"{name}{file} is not in the cache, and we are offline: load it once online"
        case UnicodeError():
            return f"{name}: the token holds characters that no token has: {_LOGIN}"
    if "Timeout" in type(error).__name__:
        return f"{name}{file}: the Hub did not answer in time: try again later"
    if "RemoteProtocol" in type(error).__name__:
        return f"{name}{file}: the connection broke off: try again"
    if "LocalProtocol" in type(error).__name__:
        return f"{name}: the request cannot be sent, is the token a token? {_LOGIN}"
    return f"{name}{file}: no connection to the Hub: check the network and HF_ENDPOINT{here}"
