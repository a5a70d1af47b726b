"""`mctrace report`: one self-contained HTML file about a store and, if given, a training run."""

import os
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from mctrace.analysis.report import build_report
from mctrace.context.errors import InputError
from mctrace.pipeline.config import PipelineConfig
from mctrace.pipeline.reading import open_version


def write_report(
    config: PipelineConfig, version: int | None, out: Path, run: Path | None, console: Console
) -> None:
    """Writes the report to `out`, whole or not at all, and says where it is.

    Raises InputError when `run` is no folder or `out` cannot be written.
    """
    if run is not None and not run.is_dir():
        raise InputError(f"no run folder {run}: 'mctrace train' makes one, by default runs/lensnet")
    if out.is_dir():
        raise InputError(f"{out} is a folder: give --out a file name, like {out / 'report.html'}")
    content = build_report(open_version(config.store, version), run, datetime.now(UTC))
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
