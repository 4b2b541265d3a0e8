"""The Hub: files of a repository, all from one commit, with errors in one line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from huggingface_hub import (
    HfApi,
    get_cached_repo_tree,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.constants import HF_HUB_ETAG_TIMEOUT
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import tqdm, validate_repo_id

from impflow_zoo.models.fields import ModelError

__all__ = ["check_repository", "one_line_errors"]

_COMMIT = re.compile(r"[0-9a-f]{40}")
_REVISION = re.compile(r"(?!/)(?!.*\.\.)[\w.+/-]{1,200}")  # a branch may hold '/', never climb
_LIBRARY = "impflow_zoo"  # what the Hub counts downloads under
# What the client runs into where the answer is not one of a Hub.
_NO_ANSWER = (AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
_LOGIN = "log in with `hf auth login` or give token="


class _NoBar(tqdm):
    """Progress that nobody sees: a mistake is to end in one line."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "disable": True})


def snapshot(
    repo_id: str,
    names: Sequence[str],
    needed: Sequence[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> tuple[Path, frozenset[str]]:
    """Fetch files of a model, all from the commit that the revision is.

    A commit that is in the cache, `local_files_only` and offline mode make no request. Where the
    Hub is out of reach, the cache does. A cache of unknown origin without the `needed` files is not
    taken for the model. A file in the cache that is not as long as on the Hub is fetched anew.

    Returns:
        The folder in the cache, and the names of all files of the repository, as far as known.
    """
    check_repository(repo_id)
    if revision is not None and not _REVISION.fullmatch(revision):
        raise ModelError(f"{revision[:80]!r} is not a revision: a branch, tag or commit is needed")
    name = repo_id if revision is None else f"{repo_id}@{revision}"
    with one_line_errors(name, loading=True):
        unreachable = None
        fixed = _COMMIT.fullmatch(revision or "")
        cached = fixed and try_to_load_from_cache(repo_id, needed[0], cache_dir, revision)
        if force_download or not (local_files_only or isinstance(cached, str)):
            try:  # a short try, without the client's patience, tells whether the Hub is there
                api, branch = HfApi(token=token), revision or "main"
                info = api.model_info(repo_id, revision=branch, timeout=HF_HUB_ETAG_TIMEOUT)
                if not _COMMIT.fullmatch(info.sha or ""):
                    raise ValueError("no commit")
            except (HTTPError, OSError, *_NO_ANSWER) as error:  # the cache may still do
                if force_download or isinstance(error, RevisionNotFoundError):
                    raise
                unreachable, local_files_only = error, True
        fetched = partial(
            snapshot_download,
            repo_id,
            cache_dir=cache_dir,
            library_name=_LIBRARY,
            tqdm_class=_NoBar,
            token=token,
            local_files_only=local_files_only,
        )
        try:
            path = Path(
                fetched(
                    revision=revision, allow_patterns=list(names), force_download=force_download
                )
            )
        except LocalEntryNotFoundError:
            if unreachable is not None:
                raise unreachable from None
            raise
    try:
        tree = get_cached_repo_tree(repo_id, revision=revision, cache_dir=cache_dir)
    except CachedRepoTreeNotFoundError:  # another program filled the cache, perhaps in part
        for file in needed:
            if not (path / file).is_file():
                missing = _reason(f"{name} ({file})", None, loading=True)
                raise LocalEntryNotFoundError(missing) from None
        return path, frozenset()
    sizes = {file.path: file.size for file in tree if (path / file.path).is_file()}
    if damaged := _damaged(path, sizes):
        with suppress(HTTPError, OSError, RuntimeError, *_NO_ANSWER):
            fetched(revision=path.name, allow_patterns=damaged, force_download=True)
    for file in _damaged(path, sizes):
        said = f"{name}: {file} is damaged in the cache: load it once online, or delete {path}"
        raise LocalEntryNotFoundError(said)
    return path, frozenset(file.path for file in tree)


def _damaged(folder: Path, sizes: dict[str, int]) -> list[str]:
    return [name for name, size in sizes.items() if (folder / name).stat().st_size != size]


def check_repository(repo_id: str) -> None:
    """Refuse what is no Hub id of the form `owner/name`, by a `ModelError`."""
    try:
        validate_repo_id(repo_id)
        valid = repo_id.count("/") == 1
    except HFValidationError:
        valid = False
    if not valid:
        zoo = "" if "/" in repo_id else "; names of the zoo are for create_model"
        raise ModelError(f"{repo_id[:200]!r} is neither a folder nor a Hub id, 'owner/name'{zoo}")


@contextmanager
def one_line_errors(name: str, *, loading: bool = False, saves: bool = False) -> Iterator[None]:
    """Errors of the Hub keep their type and say in one line what happened and what helps.

    The Hub's own messages are pages long, and messages of the connection may quote a header with
    a token in it. Failures of the connection come as `LocalEntryNotFoundError`: the
    file could not be fetched, and the cache does not have it. In `loading`, the name may have been
    meant for a folder; where a model `saves` itself within, a `RuntimeError` may be torch's.
    """
    try:
        yield
    except HFValidationError:
        raise ModelError(f"{name[:200]!r} is not a Hub id, 'owner/name'") from None
    except HfHubHTTPError as error:
        error.args = (_reason(name, error, loading=loading),)
        raise error from None
    except LocalEntryNotFoundError as error:
        raise LocalEntryNotFoundError(_reason(name, error.__cause__, loading=loading)) from None
    except (HTTPError, OfflineModeIsEnabled, UnicodeEncodeError) as error:
        raise LocalEntryNotFoundError(_reason(name, error, loading=loading)) from None
    except _NO_ANSWER as error:
        unread = isinstance(error, (JSONDecodeError, KeyError))  # others may be of our own code
        if not (loading or unread or error.__cause__):
            raise
        # force_download that failed is a ValueError: what failed is the cause
        cause = error.__cause__ or error
        raise LocalEntryNotFoundError(_reason(name, cause, loading=loading)) from None
    except (RuntimeError, OSError) as error:
        if str(error).startswith("Consistency check failed"):
            raise OSError(f"{name}: a download was interrupted or is damaged: try again") from None
        # The client of the Hub's storage, Xet, has errors of its own, or plain RuntimeErrors.
        plain = isinstance(error, RuntimeError) and not saves
        if not plain and not type(error).__name__.startswith("Xet"):
            raise
        said = f"{name}: the transfer failed: check the network and try again"
        raise LocalEntryNotFoundError(said) from None


def _reason(name: str, error: BaseException | None, *, loading: bool) -> str:
    here = " and no folder of that name here" if loading else ""
    match error:
        case GatedRepoError():
            return f"{name} is gated: request access on its page, then {_LOGIN}"
        case RepositoryNotFoundError():
            return f"no repository {name} on the Hub{here}; if it is private, {_LOGIN}"
        case RevisionNotFoundError():
            return f"{name} has no such revision: no branch, tag or commit of that name"
        case HfHubHTTPError():
            status = error.response.status_code
            advice = {
                401: _LOGIN,
                403: "the token does not allow it",
                412: "it was changed in the meantime: look at it, then try again",
                429: "too many requests",
            }
            said = " ".join((error.server_message or "").split())[:200]
            what = advice.get(status, said or "try again later")
            return f"{name}: the Hub answered HTTP {status}: {what}"
        case None | OfflineModeIsEnabled():
            return f"{name} is not in the cache, and this call is offline: load it once online"
    kind = type(error).__name__
    if "Timeout" in kind:
        return f"{name}: the Hub did not answer in time: try again later"
    if "RemoteProtocol" in kind:
        return f"{name}: the connection was interrupted: try again"
    if isinstance(error, UnicodeEncodeError) or "LocalProtocol" in kind:
        return f"{name}: the request cannot be sent, is the token valid? {_LOGIN}"
    if isinstance(error, _NO_ANSWER):
        return f"{name}: the answer is none of a Hub, perhaps of a login page: check the network"
    here = "there is no folder of that name here, and " if loading else ""
    return f"{name}: {here}no connection to the Hub: check the network and HF_ENDPOINT"
