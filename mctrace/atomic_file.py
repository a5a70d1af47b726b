"""Atomic writes of single files: a reader meets the old file or the new one, never half of one."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Scratch path beside `target`, which replaces `target` at the end of the block.

    After an exception `target` is as before and the scratch file is gone. Raises OSError.
    """
    # Machines that share a folder may share a process id.
    scratch = target.with_name(f".{target.name}-{uuid4().hex[:16]}")
    try:
        yield scratch
        scratch.replace(target)
    finally:
        with suppress(OSError):  # where `target` has no folder there is no scratch file either
            scratch.unlink()
