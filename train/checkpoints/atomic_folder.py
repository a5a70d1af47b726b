"""Atomic writes and removals: a checkpoint folder, of any network, is complete or absent."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from mctrace.errors import OutputError, brief
from mctrace.train.checkpoints.manifest import MANIFEST, write_manifest


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Write `folder` atomically, replacing an existing one; `fill` writes its files to the path it is given.

    The folder is written beside its final place with a manifest, synced to disk, then renamed, so a crash
    never leaves half of one. During replacement the old one is called `.<name>.previous`; after a crash at
    that point `latest_whole_folder` finds it there. One writer per folder.

    Raises OutputError when the disk is full or cannot be written; the old folder is then unchanged.
    """
    from safetensors import SafetensorError  # networks and losses import without it

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
                f"{folder} cannot be written ({brief(error)}); the previous version is unchanged"
            ) from error
        raise


def latest_whole_folder(folder: Path) -> Path:
    """Path of the last complete version of `folder`, if there is one; else `folder` itself."""
    return _previous(folder) if not folder.exists() and _previous(folder).exists() else folder


def remove_folder(folder: Path) -> None:
    """Remove `folder` atomically: it loses its name before its files."""
    removed = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(removed, ignore_errors=True)
    folder.rename(removed)
    shutil.rmtree(removed)


def tidy_folders(root: Path) -> None:
    """Finish what killed writers have begun in `root`: put back previous versions, remove the rest.

    Nobody may be writing there.
    """
    for previous in root.glob(".*.previous"):
        folder = previous.with_name(previous.name[1:].removesuffix(".previous"))
        if not folder.exists():
            previous.rename(folder)
    for suffix in ("new", "removed", "previous"):
        for left in root.glob(f".*.{suffix}"):
            shutil.rmtree(left)


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
