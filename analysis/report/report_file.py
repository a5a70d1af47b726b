"""A report written as one HTML file, atomically."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from mctrace.analysis.report.report import ReportParts, build_report
from mctrace.atomic_file import replacing
from mctrace.datasets.store.store import StoreVersion
from mctrace.errors import InputError
from mctrace.train.run_files import CLOSED_LOOP_FILE, CONFIG_FILE, EVALUATION_FILE, METRICS_FILE

_RUN_FILES = (CONFIG_FILE, METRICS_FILE, EVALUATION_FILE, CLOSED_LOOP_FILE)
"""one of them at least is in the folder of a training run"""


def check_report_paths(out: Path, runs: Sequence[Path]) -> None:
    """Raises InputError when a run is no folder of a training run, or `out` is a folder."""
    for run in runs:
        if not run.is_dir():
            raise InputError(f"no run folder {run}: 'mctrace train' makes one, by default runs/lensnet")
        if not any((run / name).exists() for name in _RUN_FILES):
            raise InputError(
                f"{run} holds no training run ({METRICS_FILE} and others): give the --out of 'mctrace train'"
            )
    if out.is_dir():
        raise InputError(f"{out} is a folder: give --out a file name, like {out / 'report.html'}")


def write_report(out: Path, version: StoreVersion, parts: ReportParts) -> None:
    """Build the report on `version` and write it to `out`, or leave what was there.

    Raises InputError when a checkpoint or snapshot cannot be used or the file cannot be written.
    """
    version.refuse_damaged(hash_tables=True)
    if parts.compared is not None and parts.compared.version == version.version:
        raise InputError(
            f"--compare {version.version} is the version of the report itself: name an earlier or later one "
            "(mctrace log --versions)"
        )
    content = build_report(version, parts, datetime.now(UTC))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as scratch:
            scratch.write_bytes(content.encode("utf-8"))
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}") from error
