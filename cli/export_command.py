"""`mctrace export`: labels and their context as files for Hugging Face's library and everything else."""

from pathlib import Path

from rich.console import Console

from mctrace.cli.config import PipelineConfig
from mctrace.cli.progress import make_progress
from mctrace.cli.reading import open_version
from mctrace.datasets.export.export import ExportRequest, export


def export_store(
    config: PipelineConfig,
    version: int | None,
    out: Path,
    request: ExportRequest,
    *,
    overwrite: bool,
    console: Console,
) -> None:
    """Writes the export and says what is in it."""
    at = open_version(config.store, version)
    summary = export(at, out, request, make_progress(console), overwrite=overwrite)
    rows = "; ".join(
        f"{table}: {', '.join(f'{count} {split}' for split, count in splits.items())}"
        for table, splits in summary.num_rows.items()
    )
    console.print(
        f"wrote {out} ({summary.num_bytes / 1e6:.1f} MB) from version {at.version}: {rows}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
