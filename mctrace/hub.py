"""Transfer of files to and from a Hugging Face hub, or whatever serves its API under $HF_ENDPOINT.

Only plain files with plain names travel, each of a suffix that its caller allows: data, weights as safetensors and
cards. Nothing that is downloaded runs, and a file of any other name stays where it is.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mctrace.errors import InputError, MctraceError, brief

RepoKind = Literal["dataset", "model"]
_REPO_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_PLAIN_PART = re.compile(r"[A-Za-z0-9_][\w.-]*", re.ASCII)
_MAX_DEPTH = 2
"""folders and the file's name"""


@dataclass(frozen=True)
class Pushed:
    """An upload: where it can be looked at, its commit, and how much it was."""

    url: str
    commit: str
    num_files: int
    num_bytes: int


@dataclass(frozen=True)
class RemoteFiles:
    """Files of a repository at one commit; `refused` are names that will not be downloaded."""

    repo: str
    kind: RepoKind
    commit: str
    names: tuple[str, ...]
    refused: tuple[str, ...]


def is_repo_name(name: str) -> bool:
    """True for "organisation/name", which no local path has to be."""
    return _REPO_NAME.fullmatch(name) is not None and not name.endswith((".git", ".ipynb"))


def is_safe_name(name: str, suffixes: Collection[str]) -> bool:
    """True for a name of plain parts, at most one folder deep, with one of the suffixes."""
    parts = name.split("/")
    is_plain = all(_PLAIN_PART.fullmatch(part) for part in parts)
    return is_plain and len(parts) <= _MAX_DEPTH and Path(name).suffix in suffixes


def push_files(
    folder: Path, names: Iterable[str], repo: str, kind: RepoKind, *, message: str, private: bool
) -> Pushed:
    """Upload the files `names` of `folder` as one commit; other files of the repository that it could have
    downloaded are deleted in the same commit. Makes the repository where there is none.

    Raises InputError when the hub cannot be reached, refuses, or `repo` is no name that it could have.
    """
    check_repo_name(repo)
    names = sorted(names)
    with _hub_errors(f"push to {repo}"):
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

        api = HfApi(library_name="mctrace")
        url = api.create_repo(repo, repo_type=kind, private=private or None, exist_ok=True)
        stale = set(api.list_repo_files(repo, repo_type=kind)) - set(names)
        suffixes = {Path(name).suffix for name in names}
        operations: list[Any] = [CommitOperationAdd(name, folder / name) for name in names]
        operations += [
            CommitOperationDelete(name) for name in sorted(stale) if is_safe_name(name, suffixes)
        ]
        commit = api.create_commit(repo, operations, commit_message=message, repo_type=kind)
    return Pushed(str(url), commit.oid, len(names), sum((folder / name).stat().st_size for name in names))


def list_files(
    repo: str, suffixes: Collection[str], kind: RepoKind | None = None, revision: str | None = None
) -> RemoteFiles:
    """Files of a repository at the commit that `revision` is now (the newest by default).

    Without `kind` both kinds are asked for. Raises InputError when there is none, or one of each kind.
    """
    check_repo_name(repo)
    with _hub_errors(f"read {repo}"):
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RepositoryNotFoundError

        api, found = HfApi(library_name="mctrace"), []
        kinds: tuple[RepoKind, ...] = (kind,) if kind else ("dataset", "model")
        for one in kinds:
            try:
                found.append((one, api.repo_info(repo, repo_type=one, revision=revision)))
            except RepositoryNotFoundError:
                continue
    if not found:
        raise InputError(f"{repo}: the hub has no such {' or '.join(kinds)}, or does not show it without a token")
    if len(found) > 1:
        raise InputError(f"{repo} is a dataset and a model: say which with --type")
    (one, info), names = found[0], []
    names = sorted(sibling.rfilename for sibling in info.siblings or ())
    safe = tuple(name for name in names if is_safe_name(name, suffixes))
    refused = tuple(name for name in names if name not in safe and not name.startswith(".git"))
    return RemoteFiles(repo, one, info.sha, safe, refused)


def fetch_files(files: RemoteFiles, into: Path, advance: Callable[[int], None] = lambda _: None) -> None:
    """Download the files into the folder `into`, one after the other; `advance` is told of each.

    Raises InputError when the hub cannot be reached or a file is not there.
    """
    with _hub_errors(f"read {files.repo}"):
        from huggingface_hub import hf_hub_download

        for name in files.names:
            hf_hub_download(
                files.repo, name, repo_type=files.kind, revision=files.commit, local_dir=into,
                library_name="mctrace",
            )  # fmt: skip
            advance(1)


def pretrained_folder(repo: str, names: Collection[str], revision: str | None = None) -> Path:
    """Local folder, in the hub's cache, of those files of a model repository; downloaded once.

    Without a network the copy of an earlier download serves. Raises InputError when there is neither.
    """
    check_repo_name(repo)
    with _hub_errors(f"read {repo}"):
        from huggingface_hub import snapshot_download

        folder = snapshot_download(
            repo, revision=revision, allow_patterns=sorted(names), library_name="mctrace"
        )
    return Path(folder)


def check_repo_name(repo: str) -> None:
    """Raises InputError for a name that no repository of a hub has."""
    if not is_repo_name(repo):
        raise InputError(f"{repo!r} is no repository of a hub: give organisation/name")


@contextmanager
def _hub_errors(attempt: str) -> Iterator[None]:
    """The hub's and the network's errors as one line that says what to do."""
    try:
        yield
    except MctraceError:
        raise
    except ModuleNotFoundError as error:
        raise InputError(f"cannot {attempt}: it needs {error.name}: pip install {error.name}") from error
    except Exception as error:  # errors of two HTTP libraries, of the hub's client and of the network
        from huggingface_hub.constants import ENDPOINT
        from huggingface_hub.errors import OfflineModeIsEnabled

        if isinstance(error, OfflineModeIsEnabled) or isinstance(error.__cause__, OfflineModeIsEnabled):
            raise InputError(f"cannot {attempt}: HF_HUB_OFFLINE is set; set it to 0 to use the network") from error
        status = getattr(getattr(error, "response", None), "status_code", None)
        remedy = {401: "log in with `hf auth login`", 403: "the token may not do this"}.get(
            status or 0, "check the name, the network and HF_ENDPOINT"
        )
        raise InputError(f"cannot {attempt} at {ENDPOINT} ({brief(error)}): {remedy}") from error
