"""Judgements of gists as tables in a terminal."""

from rich.console import Console
from rich.table import Table

from mctrace.cli.display.tables import interval_cell, print_table
from mctrace.gists.evaluation.evaluation_summary import EvaluationSummary, LossRow


def print_evaluation(summary: EvaluationSummary, split: str, console: Console) -> None:
    """Print three tables: cost of gists, single spans, and diversity."""
    horizons = sorted({row.horizon for row in summary.rows})
    table = Table(
        title=f"Nats per token above the full text, {split} split: mean and 95% interval over documents"
    )
    for column in ("corpus", "level", "collapsed", "variant"):
        table.add_column(column)
    for horizon in horizons:
        table.add_column(f"@{horizon}", justify="right")
    table.add_column(f"less deleted @{horizons[-1]}", justify="right")
    for key, rows in _by_variant(summary.rows).items():
        table.add_row(
            *key, *(interval_cell(row.delta_nll) for row in rows), interval_cell(rows[-1].versus_deleted)
        )
    print_table(table, console)
    spans = Table(title="Single level-1 spans: share that costs less than the tolerance")
    for column in ("corpus", "variant", "horizon", "spans", "share"):
        spans.add_column(column)
    for span in summary.spans:
        spans.add_row(
            span.corpus,
            span.variant,
            str(span.horizon),
            str(span.num_spans),
            interval_cell(span.share_within_tolerance, 2),
        )
    print_table(spans, console)
    diversity = Table(title="Diversity: mean cosine distance of a document's gists")
    for column in ("corpus", "variant", "level", "neighbours", "all pairs"):
        diversity.add_column(column)
    for found in summary.diversity:
        diversity.add_row(
            found.corpus,
            found.variant,
            str(found.level),
            interval_cell(found.neighbours),
            interval_cell(found.pairs),
        )
    print_table(diversity, console)


def _by_variant(rows: tuple[LossRow, ...]) -> dict[tuple[str, ...], list[LossRow]]:
    groups: dict[tuple[str, ...], list[LossRow]] = {}
    for row in rows:
        setting = row.setting
        key = (row.corpus, str(setting.level), f"{setting.share:.0%} {setting.placement}", row.variant)
        groups.setdefault(key, []).append(row)
    return groups
