"""Read-only file system that DuckDB sees: the files of one connection, by name.

DuckDB opens an allowed folder for reading and writing alike, and takes `*`, `?`, `[` and `name=value` in a
path for patterns. Here it gets names instead of paths: a name stands for one file, is no pattern, and has no
way to be created, written, moved or removed, whatever a statement asks for.
"""

import io
import os
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import fsspec

PROTOCOL = "mctrace"

ROOT = f"{PROTOCOL}://"
"""What every name begins with."""


class ReadOnlyFiles(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """Names, each with the file system that has the file and its path there."""

    protocol = PROTOCOL
    cachable = False  # two connections have two sets of names

    def __init__(self, files: Mapping[str, tuple[fsspec.AbstractFileSystem, str]]) -> None:
        super().__init__()
        self._files = dict(files)

    def _place(self, path: str) -> tuple[fsspec.AbstractFileSystem, str]:
        name = path.removeprefix(ROOT)
        if name not in self._files:
            raise FileNotFoundError(f"no file {path}")
        return self._files[name]

    def open(self, path: str, mode: str = "rb", **_: Any) -> "_Reading":
        """Raises PermissionError for anything but reading."""
        if mode != "rb":
            raise PermissionError(f"{path} is read-only")
        filesystem, place = self._place(path)
        if isinstance(filesystem, fsspec.implementations.local.LocalFileSystem):
            return _Reading(_local_reader(place))
        return _Reading(_remote_reader(filesystem, place))

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        filesystem, place = self._place(path)
        return {"name": path, "size": int(filesystem.size(place)), "type": "file"}

    def modified(self, path: str) -> datetime:
        """One moment for all: parts are written once."""
        return datetime.fromtimestamp(0, UTC)

    def glob(self, path: str, **_: Any) -> list[str]:
        """The name itself: none is a pattern."""
        return [path] if path.removeprefix(ROOT) in self._files else []

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """Nothing: names are known, not found."""
        return []

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        raise PermissionError(f"{path} is read-only")

    makedirs = mv = rm = rm_file = cp_file = touch = pipe_file = put_file = mkdir


class _Reading(io.RawIOBase):
    """A file whose position belongs to the thread that set it: DuckDB seeks and reads in two calls, from
    several threads at once.
    """

    def __init__(self, source: "_Source") -> None:
        super().__init__()
        self._read_at, self._size, self._close = source
        self._of_thread = threading.local()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(getattr(self._of_thread, "position", 0))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        begin = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self._size}[whence]
        self._of_thread.position = begin + offset
        return self.tell()

    def read(self, size: int = -1) -> bytes:
        position = self.tell()
        content = self._read_at(position, self._size - position if size < 0 else size)
        self._of_thread.position = position + len(content)
        return content

    def close(self) -> None:
        if not self.closed:
            self._close()
        super().close()


_Source = tuple[Callable[[int, int], bytes], int, Callable[[], None]]
"""reads `size` bytes at an offset; the file's size; closes it"""


def _local_reader(path: str) -> _Source:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read_at(offset: int, size: int) -> bytes:
        return os.pread(descriptor, size, offset)

    return read_at, os.fstat(descriptor).st_size, lambda: os.close(descriptor)


def _remote_reader(filesystem: fsspec.AbstractFileSystem, path: str) -> _Source:
    file, lock = filesystem.open(path, "rb"), threading.Lock()

    def read_at(offset: int, size: int) -> bytes:
        with lock:
            file.seek(offset)
            return bytes(file.read(size))

    return read_at, int(file.size), file.close
