"""Pull: a repository of a hub becomes a folder, checked before it is put in place."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

from mctrace.datasets.export.output_folder import put_in_place, scratch_beside
from mctrace.errors import InputError
from mctrace.hub import RepoKind, fetch_files, list_files
from mctrace.progress import Progress
from mctrace.sharing.shared_folder import SUFFIXES, FolderKind, check_whole, is_wanted, recognise


@dataclass(frozen=True)
class Pulled:
    """What came, from which commit, and the names of files that were left where they are."""

    kind: FolderKind
    commit: str
    num_files: int
    num_bytes: int
    left_out: Sequence[str]


def pull(
    repo: str,
    out: Path,
    progress: Progress,
    *,
    repo_kind: RepoKind | None = None,
    revision: str | None = None,
    overwrite: bool = False,
) -> Pulled:
    """Download a label set, a LensNet or a GistNet into `out`, whole or not at all.

    Only files that such a folder can have are taken; none of them is code. Raises InputError when `out` is
    taken, the hub has no such repository, or what comes is none of the three or not what its own records say.
    """
    try:
        with scratch_beside(out) as scratch:
            _refuse_taken(out, overwrite=overwrite)
            files = list_files(repo, SUFFIXES, repo_kind, revision)
            wanted = tuple(name for name in files.names if is_wanted(name))
            left_out = sorted({*files.refused, *files.names} - set(wanted))
            progress.start(f"pulling {repo}", len(wanted), "files")
            chosen = type(files)(files.repo, files.kind, files.commit, wanted, files.refused)
            fetch_files(chosen, scratch, progress.advance)
            rmtree(scratch / ".cache", ignore_errors=True)  # the client's notes on what it downloaded
            shared = recognise(scratch)
            if shared is None:
                raise InputError(f"{repo} is neither a label set of mctrace, nor a LensNet, nor a GistNet")
            check_whole(shared)
            num_bytes = sum(path.stat().st_size for path in scratch.rglob("*") if path.is_file())
            put_in_place(scratch, out)
    except OSError as error:
        if error.errno is None:
            raise
        raise InputError(f"cannot write {out}: {error.strerror}") from error
    finally:
        progress.stop()
    return Pulled(shared.kind, files.commit, len(wanted), num_bytes, left_out)


def _refuse_taken(out: Path, *, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    earlier = recognise(out) if out.is_dir() else None
    if earlier is None:
        raise InputError(f"{out} is there and was not pulled: choose another folder")
    if not overwrite:
        raise InputError(f"{out} holds {earlier.kind} already: choose another folder, or --overwrite it")
