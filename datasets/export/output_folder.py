"""Output folder of an export: written beside its place, one export at a time, and moved in atomically.

An export that was killed leaves its scratch folder and, if that happened between two renames, the export it
was about to replace under another name. Who holds the place's lock knows that nobody is at work on them: the
next export to the same place puts back the one and removes the other.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mctrace.datasets.store.location import Location
from mctrace.errors import InputError


@contextmanager
def scratch_beside(out: Path) -> Iterator[Path]:
    """A folder to write the export in, which is gone afterwards unless `put_in_place` took it.

    Raises InputError when `out` cannot be written or another process is exporting to it.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with _lock(out):
        _tidy(out)
        scratch = Path(tempfile.mkdtemp(prefix=f"{_prefix(out)}-", dir=out.parent))
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def put_in_place(scratch: Path, out: Path) -> None:
    """One rename, after all is on disk; an earlier export makes way just before."""
    scratch.chmod(0o755)  # a scratch folder is its maker's alone
    if out.exists():
        out.rename(_earlier(out))
    Location.of(str(out.parent.resolve())).move_in(scratch, out.name)
    shutil.rmtree(_earlier(out), ignore_errors=True)


def _prefix(out: Path) -> str:
    """Prefix of scratch names; a hash, since the name itself may be as long as a file system allows."""
    return f".mctrace-export-{hashlib.sha256(out.name.encode()).hexdigest()[:12]}"


def _earlier(out: Path) -> Path:
    return out.with_name(f"{_prefix(out)}-earlier")


def _tidy(out: Path) -> None:
    """Removes what killed exports have left."""
    if _earlier(out).exists() and not out.exists():
        _earlier(out).rename(out)
    for left in out.parent.glob(f"{_prefix(out)}-*"):
        shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _lock(out: Path) -> Iterator[None]:
    """Lock on an output folder; released when the process ends, however it ends."""
    path = out.with_name(f"{_prefix(out)}.lock")
    while True:
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(f"another process is exporting to {out}: choose another folder") from error
            # Whoever held it before has removed the file that was opened here.
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return
