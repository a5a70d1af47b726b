"""Results of the GPU kit: one JSON object a line, written the moment it exists.

A file that only grows: whatever ends a step, or the machine, leaves all lines before whole.
"""

import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def append(path: Path, record: Record) -> None:
    """One more line, on the disk before this returns."""
    line = json.dumps({**_plain(record), "at": round(time.time(), 3)}, allow_nan=False)
    with path.open("ab") as file:
        # A line that somebody was killed over must not swallow this one.
        if file.tell() and not _ends_line(path):
            file.write(b"\n")
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> Iterator[Record]:
    """Every whole line."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue  # cut off in the middle
        if isinstance(record, dict):
            yield record


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _plain(value: Any) -> Any:
    """Values of JSON only: numbers that are none become None, six digits of the others."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return str(value)
