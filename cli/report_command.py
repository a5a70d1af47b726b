"""`mctrace report`: one self-contained HTML file about a store, training runs and checkpoints."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from mctrace.analysis.report.report import ReportParts, build_report
from mctrace.cli.config import PipelineConfig
from mctrace.cli.reading import open_version
from mctrace.errors import InputError


@dataclass(frozen=True)
class ReportRequest:
    """What was asked for on the command line, besides the configuration."""

    out: Path
    version: int | None = None
    compare: int | None = None
    """another version to set beside it"""
    runs: Sequence[Path] = ()
    checkpoints: Sequence[Path] = ()
    snapshots: Sequence[str] = ()


def write_report(config: PipelineConfig, request: ReportRequest, console: Console) -> None:
    """Writes the report, whole or not at all, and says where it is.

    Raises InputError when a run is no folder, a checkpoint or snapshot cannot be used or the file cannot be
    written.
    """
    out = request.out
    for run in request.runs:
        if not run.is_dir():
            raise InputError(f"no run folder {run}: 'mctrace train' makes one, by default runs/lensnet")
    if out.is_dir():
        raise InputError(f"{out} is a folder: give --out a file name, like {out / 'report.html'}")
    version = open_version(config.store, request.version)
    version.refuse_damaged(hash_tables=True)
    if request.compare == version.version:
        raise InputError(
            f"--compare {request.compare} is the version of the report itself: name an earlier or later one "
            "(mctrace log --versions)"
        )
    parts = ReportParts(
        runs=request.runs,
        checkpoints=request.checkpoints,
        compared=None if request.compare is None else open_version(config.store, request.compare),
        snapshots=request.snapshots,
    )
    content = build_report(version, parts, datetime.now(UTC))
    try:
        _write_whole(out, content.encode("utf-8"))
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}") from error
    console.print(
        f"wrote {out.resolve()} ({out.stat().st_size / 1e6:.1f} MB)",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _write_whole(out: Path, content: bytes) -> None:
    """Under a scratch name beside it, then one rename, so that a reader never meets half a file."""
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = out.with_name(f".{out.name}-{os.getpid()}")
    try:
        scratch.write_bytes(content)
        scratch.replace(out)
    finally:
        scratch.unlink(missing_ok=True)
