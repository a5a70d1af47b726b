"""`mctrace export`: labels and their context as files for Hugging Face's library and everything else."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console

from mctrace.context.errors import InputError
from mctrace.datasets.export import ExportRequest, export
from mctrace.datasets.queries import connect, fetch_rows
from mctrace.datasets.store import StoreVersion
from mctrace.pipeline.config import PipelineConfig
from mctrace.pipeline.progress import make_progress
from mctrace.pipeline.reading import open_version


def export_store(
    config: PipelineConfig,
    version: int | None,
    out: Path,
    request: ExportRequest,
    *,
    with_text: bool,
    overwrite: bool,
    console: Console,
) -> None:
    """Writes the export and says what is in it."""
    at = open_version(config.store, version)
    decode = _decoder(at) if with_text else None
    summary = export(at, out, request, make_progress(console), decode=decode, overwrite=overwrite)
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


def _decoder(version: StoreVersion) -> Callable[[str, Sequence[int]], str]:
    """Text of token ids by the tokenizer of the run's own base model, which must still be the same one."""
    from mctrace.collect.model_source import resolve_model

    runs = {row["tokenizer_hash"]: row for row in fetch_rows(connect(version), "from runs order by run_id")}

    @cache
    def tokenizer_of(tokenizer_hash: str) -> Any:
        run = runs.get(tokenizer_hash)
        if run is None or not run["model_name"]:
            raise InputError(f"no run names the tokenizer {tokenizer_hash[:8]}: export without --text")
        source = resolve_model(run["model_name"], run["model_revision"])
        if source.tokenizer_hash != tokenizer_hash:
            raise InputError(
                f"the tokenizer of {run['model_name']!r} is another one today than in run {run['run_id']}: "
                "export without --text"
            )
        return source.load_tokenizer()

    def decode(tokenizer_hash: str, tokens: Sequence[int]) -> str:
        return str(
            tokenizer_of(tokenizer_hash).decode(
                tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    return decode
