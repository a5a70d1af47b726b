"""The JSONL file of a closed loop: one document under one policy a line, appended as soon as it is done.

A later run takes the rows of its own conditions from there instead of running them again.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mctrace.analysis.closed_loop.policy_run import RefocusRecord
from mctrace.errors import InputError

_KEYS = {"key", "document_id", "source", "refocuses"}


def make_row(
    key: str, document_id: str, source: str, policy: str, steps: Sequence[RefocusRecord]
) -> Mapping[str, Any]:
    """One document under one policy as a JSON object; `key` is the hash of the conditions."""
    return {
        "key": key,
        "document_id": document_id,
        "source": source,
        "policy": policy,
        "refocuses": [asdict(step) for step in steps],
    }


def append_row(file: Path, row: Mapping[str, Any]) -> None:
    """Append one line."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(row) + "\n")


def read_rows(file: Path) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Rows of earlier runs by (key, document_id); empty where there is no file.

    A last line that was cut short is removed from the file, so that it runs again. Raises InputError for any
    other line that is no row.
    """
    if not file.exists():
        return {}
    whole, newline, cut = file.read_bytes().rpartition(b"\n")
    if cut:
        file.write_bytes(whole + newline)
    rows: dict[tuple[str, str], Mapping[str, Any]] = {}
    for number, line in enumerate(whole.splitlines(), start=1):
        row = _parse(line)
        if row is None:
            raise InputError(
                f"{file}, line {number}, is no row of a closed loop: take the line out, and what it held "
                "runs again"
            )
        rows[row["key"], row["document_id"]] = row
    return rows


def _parse(line: bytes) -> Mapping[str, Any] | None:
    """A row as `make_row` makes it; None for anything else."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and row.keys() >= _KEYS else None
