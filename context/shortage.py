"""Memory, disk and processes that ran out: nobody's bug, so one line says it, whichever library noticed.

Libraries say so in ways of their own: torch in a RuntimeError, Rust in a panic, safetensors and Delta in
errors without a number. What they have in common are the operating system's words.
"""

import errno
import re

from mctrace.errors import brief

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FOREIGN = (
    "PanicException",
    "SafetensorError",
    "OutOfMemoryException",
    "IOException",
    "DeltaError",
    "CommitFailedError",
)
"""errors of compiled libraries, which have classes of their own, panics of Rust among them"""
_SHORTAGES = (
    (
        r"allocate memory|out of memory|unable to allocate|memory allocation|bad_alloc|os error 12\b",
        "ran out of memory",
        "close other programs, use fewer actors, a smaller model or collect.batch_tokens, or more memory",
    ),
    (
        r"no space left|quota exceeded|file too large|os error (28|122|27)\b",
        "ran out of disk space",
        "make room and run the same command again; what was written before is whole",
    ),
    (
        r"resource temporarily unavailable|spawn thread|too many open files|os error (11|24)\b",
        "ran out of processes or open files",
        "raise the limits (ulimit -u, ulimit -n) or use fewer threads and actors",
    ),
)


def shortage(error: BaseException) -> str | None:
    """What ran out, where and what to do, in one line; None for an error that is something else."""
    if not (isinstance(error, MemoryError | OSError | RuntimeError) or type(error).__name__ in _FOREIGN):
        return None
    said = str(error) or type(error).__name__
    if isinstance(error, MemoryError):
        said = f"{said}: cannot allocate memory"
    elif isinstance(error, OSError) and error.errno in _DISK:
        said = f"{said}: no space left"
    for pattern, what, remedy in _SHORTAGES:
        if re.search(pattern, said, re.IGNORECASE):
            return f"{what} ({brief(error)}): {remedy}"
    return None
