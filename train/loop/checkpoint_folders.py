"""Checkpoint folders, of any network: whole or absent, the best and the last few kept."""

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError

from mctrace.errors import OutputError, brief
from mctrace.train.loop.manifest import MANIFEST, write_manifest

BEST = "best"
"""name of the checkpoint with the lowest validation loss"""

STEP = "step_"
"""what the names of the others begin with, the number of the step following in seven digits"""

Save = Callable[[str, int, Mapping[str, float]], None]
"""Writes a checkpoint under a name, with its step and the validation values there (empty: not validated)"""


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Have `fill` write the files of a new folder, and put it at `folder`, replacing one that is there.

    Written beside it with a manifest, synced, then renamed, so that a crash never leaves half a folder. While
    an old one is being replaced it is called `.<name>.previous`, where `whole_folder` finds it if the crash
    came then. One writer per folder.

    Raises OutputError when there is no room; then the old one is as it was.
    """
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir(parents=True)
        fill(fresh)
        write_manifest(fresh, {path.name for path in fresh.iterdir()} - {MANIFEST})
        for path in (*sorted(fresh.iterdir()), fresh):
            _sync(path)
        _swap(fresh, folder)
    except BaseException as error:
        shutil.rmtree(fresh, ignore_errors=True)
        if isinstance(error, OSError | SafetensorError):
            raise OutputError(
                f"{folder} cannot be written ({brief(error)}); what was there before is whole"
            ) from error
        raise


def whole_folder(folder: Path) -> Path:
    """Where the last whole version of `folder` is, if there is any."""
    return _previous(folder) if not folder.exists() and _previous(folder).exists() else folder


def keeping_last(
    root: Path,
    write: Callable[[Path, int, Mapping[str, float]], None],
    keep_last: int,
    earlier: Sequence[Path] = (),
) -> Save:
    """The `save` that a training run wants: `root/<name>`, `best` and the last `keep_last` others kept.

    Only what it wrote itself is ever deleted, and `earlier`, what the same run wrote before it was stopped.
    """
    steps = list(earlier)

    def save(name: str, step: int, metrics: Mapping[str, float]) -> None:
        write(root / name, step, metrics)
        if name != BEST and root / name not in steps:
            steps.append(root / name)
        while len(steps) > keep_last:
            shutil.rmtree(steps.pop(0))

    return save


def step_folders(root: Path) -> list[Path]:
    """The checkpoints of a run's steps, earliest first."""
    return sorted(folder for folder in root.glob(f"{STEP}*") if folder.is_dir())


def _previous(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.previous")


def _swap(fresh: Path, folder: Path) -> None:
    previous = _previous(folder)
    if folder.exists():
        shutil.rmtree(previous, ignore_errors=True)
        folder.rename(previous)
    fresh.rename(folder)
    _sync(folder.parent)
    shutil.rmtree(previous, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hash_of_checkpoint(folder: Path) -> str:
    """sha256 of its files, one after another by name: of its weights and of all that is known of them."""
    digest = hashlib.sha256()
    for file in sorted(whole_folder(folder).iterdir()):
        if file.is_file() and file.name != MANIFEST:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def name_of_checkpoint(folder: Path) -> str:
    """A run's best checkpoint is called by its run; any other by its own folder."""
    return folder.resolve().parent.name if folder.name == BEST else str(folder)
