"""Location of a store: a URI, local or anything fsspec can reach, and durable writes to it.

Neither Delta nor Zarr calls fsync; a machine that loses power could then keep a ledger row and lose the file
it names. On a local folder every file and folder is synced here before the ledger hears of it.
"""

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from mctrace.atomic_file import replacing
from mctrace.errors import StoreError

_AT_ONCE = 32
"""Concurrent requests to an object store, where each is slow and does little."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Location:
    """Root URI with its file system. Methods take relative paths with forward slashes."""

    uri: str
    filesystem: fsspec.AbstractFileSystem
    root: str

    @classmethod
    def of(cls, uri: str) -> "Location":
        """Location of a URI.

        Raises StoreError for a scheme that fsspec does not know or whose driver is not installed, and for a
        URI that contains a key, which would appear wherever the store is named.
        """
        if "://" in uri and "@" in uri.split("://", 1)[1].split("/", 1)[0]:
            raise StoreError(
                f"store {uri.split('://', 1)[0]}://…: keys do not belong into the URI; give them in the "
                "environment or in a profile (AWS_ACCESS_KEY_ID, AWS_PROFILE, …)"
            )
        if not uri.strip():
            raise StoreError("store.uri is empty: give a folder or a URI (--store, or store.uri)")
        try:
            # No cached listings: what another driver has just written must be visible.
            filesystem, root = fsspec.core.url_to_fs(uri, use_listings_cache=False)
        except (ValueError, ImportError) as error:
            raise StoreError(f"store {uri!r}: {error}") from error
        root = root.rstrip("/")
        return cls(root if isinstance(filesystem, LocalFileSystem) else uri.rstrip("/"), filesystem, root)

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, LocalFileSystem)

    def path(self, relative: str) -> str:
        """Path as the file system names it.

        Raises StoreError for a path that leads out of the store: paths also come from data.
        """
        if relative.startswith("/") or ".." in relative.split("/") or "\0" in relative:
            raise StoreError(f"{self.uri}: {relative!r} is no path inside the store (mctrace verify)")
        return f"{self.root}/{relative}"

    def url(self, relative: str) -> str:
        """Path for libraries that choose a file system by its scheme."""
        return self.path(relative) if self.is_local else f"{self.uri}/{relative}"

    def exists(self, relative: str) -> bool:
        try:
            return bool(self.filesystem.exists(self.path(relative)))
        except StoreError:
            raise
        except Exception as error:  # object stores raise errors of their own: no key, no network
            raise StoreError(f"{self.uri} cannot be reached: {type(error).__name__}: {error}") from error

    def size(self, relative: str) -> int | None:
        """Bytes of a file; None where there is none."""
        path = self.path(relative)
        try:
            return Path(path).stat().st_size if self.is_local else int(self.filesystem.size(path))
        except FileNotFoundError:
            return None

    def sizes(self, folder: str) -> Mapping[str, int]:
        """Bytes of every file below `folder`, by relative path."""
        root = self.path(folder)
        if not self.is_local:
            # One listing covers a thousand objects; asking for each is a request each.
            found = self.filesystem.find(root, detail=True)
            return {path[len(self.root) + 1 :]: int(info["size"]) for path, info in found.items()}
        try:
            return dict(_sizes_below(root, folder))
        except PermissionError as error:
            raise StoreError(f"{error.filename} cannot be read: {error.strerror}") from error

    def each(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Results of `function` in order; concurrent where each is a round trip to an object store."""
        if self.is_local:
            yield from map(function, items)
            return
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            yield from pool.map(function, items)

    def read_bytes(self, relative: str) -> bytes:
        return bytes(self.filesystem.cat_file(self.path(relative)))

    def write_bytes(self, relative: str, content: bytes) -> None:
        """Writes a file atomically; it is on disk on return."""
        if not self.is_local:
            self.filesystem.pipe_file(self.path(relative), content)
            return
        target = Path(self.path(relative))
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as scratch:
            scratch.write_bytes(content)
            sync_file(scratch)
        sync_folder(target.parent)

    def move_in(self, folder: Path, relative: str) -> None:
        """Moves a finished local folder to `relative`, on local disks atomically by one rename."""
        if not self.is_local:
            for file in sorted(p for p in folder.rglob("*") if p.is_file()):
                self.filesystem.put_file(str(file), self.path(f"{relative}/{file.relative_to(folder)}"))
            return
        target = Path(self.path(relative))
        target.parent.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.rglob("*"), reverse=True):
            sync_folder(path) if path.is_dir() else sync_file(path)
        sync_folder(folder)
        folder.rename(target)
        sync_folder(target.parent)
        sync_folder(target.parent.parent)

    def remove_file(self, relative: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.filesystem.rm_file(self.path(relative))

    def remove_folder(self, relative: str) -> None:
        """Removes a folder completely, even while others are removing it."""
        path = self.path(relative)
        if not self.is_local:
            with contextlib.suppress(FileNotFoundError):
                self.filesystem.rm(path, recursive=True)
            return
        while os.path.lexists(path):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(path)

    def modified_times(self, folder: str) -> Mapping[str, float]:
        """Modification time of every file below `folder`, on a disk of every folder too, by relative path.

        Seconds since the epoch by the clock of the machine that stores the file.
        """
        root = self.path(folder)
        if self.is_local:
            return {place: entry.st_mtime for place, entry in _entries_below(root, folder)}
        found = self.filesystem.find(root, detail=True)
        return {path[len(self.root) + 1 :]: self._modified(path, info) for path, info in found.items()}

    def _modified(self, path: str, info: Mapping[str, Any]) -> float:
        """Modification time, from the listing of S3; elsewhere a separate request."""
        return float((info.get("LastModified") or self.filesystem.modified(path)).timestamp())


def _sizes_below(folder: str, relative: str) -> Iterator[tuple[str, int]]:
    for place, found in _entries_below(folder, relative):
        if not stat.S_ISDIR(found.st_mode):
            yield place, found.st_size


def _entries_below(folder: str, relative: str) -> Iterator[tuple[str, os.stat_result]]:
    """Files and folders, deepest first, without those that vanish meanwhile."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for entry in entries:
        below = f"{relative}/{entry.name}"
        with contextlib.suppress(FileNotFoundError):
            found = entry.stat()
            if entry.is_dir():
                yield from _entries_below(entry.path, below)
            yield below, found


def sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
