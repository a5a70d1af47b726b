"""Answers of commands as one JSON object on standard output (`--json`).

docs/command-line.md names their keys. A command's messages and progress then go to standard error.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich.console import Console

from mctrace.datasets.store.store import StoreVersion
from mctrace.datasets.upkeep.run_log import LoggedDataset, LoggedRun, LoggedVersion


def messages_console(console: Console, *, as_json: bool) -> Console:
    """Console for a command's messages: standard error where standard output takes JSON."""
    return Console(stderr=True, soft_wrap=True) if as_json else console


def print_json(answer: Mapping[str, Any]) -> None:
    """Print one object on one line; a number that JSON cannot spell becomes null, a time ISO 8601."""
    print(json.dumps(_plain(answer), ensure_ascii=False))


def run_answer(run: LoggedRun) -> dict[str, Any]:
    """One run of a store's log."""
    row = {name: value for name, value in run.row.items() if name not in ("config", "software", "probe")}
    first, last = run.versions
    return {
        **row,
        "state": run.state,
        "last_sign": run.last_sign,
        "first_version": first,
        "last_version": last,
        "num_effects": run.num_effects,
        "num_joint_edits": run.num_joint_edits,
        "effects_per_second": run.effects_per_second,
    }


def dataset_answer(dataset: LoggedDataset) -> dict[str, Any]:
    """One derived dataset of a store's log."""
    row = {name: value for name, value in dataset.row.items() if name != "recipe"}
    return {**row, "variables": json.loads(row["variables"]), "version": dataset.version}


def version_answer(version: LoggedVersion) -> dict[str, Any]:
    """One version of a store's log."""
    return asdict(version.record)


def version_size(version: StoreVersion) -> dict[str, int]:
    """Parts, files and bytes that a version reads."""
    parts = [committed.part for committed in version.parts]
    return {
        "num_parts": len(parts),
        "num_files": sum(len(part.files) for part in parts),
        "num_bytes": sum(part.size for part in parts),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return value.isoformat()
    return value if value is None or isinstance(value, bool | int | str) else str(value)
