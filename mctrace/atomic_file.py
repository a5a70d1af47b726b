"""Atomic writes of single files: a reader meets the old file or the new one, never half of one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Scratch path beside `target`, which replaces `target` at the end of the block.

    After an exception `target` is as before and the scratch file is gone. Raises OSError.
    """
    scratch = target.with_name(f".{target.name}-{os.getpid()}")
    try:
        yield scratch
        scratch.replace(target)
    finally:
        with suppress(OSError):  # where `target` has no folder there is no scratch file either
            scratch.unlink()
