"""Judgements of gists as tables in a terminal."""

from rich.console import Console
from rich.table import Table

from mctrace.cli.display.tables import centre_cell, interval_cell, print_table
from mctrace.gists.evaluation.evaluation_summary import CopyRow, EvaluationSummary, LossRow


def print_evaluation(summary: EvaluationSummary, split: str, console: Console) -> None:
    """Print four tables: cost of gists, the copy test, single spans, and diversity; the last two where there
    are any."""
    horizons = sorted({row.horizon for row in summary.rows})
    table = Table(
        title=f"Nats per token above the full text, {split} split: mean and 95% interval over documents"
    )
    for column in ("corpus", "level", "collapsed", "variant"):
        table.add_column(column)
    for horizon in horizons:
        table.add_column(f"@{horizon}", justify="right")
    _add_comparison_columns(table, f" @{horizons[-1]}")
    for key, rows in _by_variant(summary.rows).items():
        table.add_row(*key, *(interval_cell(row.delta_nll) for row in rows), *_comparison(rows[-1]))
    print_table(table, console)
    copies = Table(title="Copy test: nats per token above the full text, collapsed blocks repeated")
    for column in ("corpus", "level", "collapsed", "variant", "full text", "above it"):
        copies.add_column(column)
    _add_comparison_columns(copies, "")
    for copy in summary.copies:
        copies.add_row(*_key(copy), f"{copy.full_nll:.3f}", interval_cell(copy.delta_nll), *_comparison(copy))
    print_table(copies, console)
    if summary.spans:
        _print_spans(summary, console)
    if summary.diversity:
        _print_diversity(summary, console)


def _print_spans(summary: EvaluationSummary, console: Console) -> None:
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


def _print_diversity(summary: EvaluationSummary, console: Console) -> None:
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
        groups.setdefault(_key(row), []).append(row)
    return groups


def _key(row: LossRow | CopyRow) -> tuple[str, ...]:
    setting = row.setting
    return row.corpus, str(setting.level), f"{setting.share:.0%} {setting.placement}", row.variant


def _add_comparison_columns(table: Table, at: str) -> None:
    for column in (f"less deleted{at}", "median", "trimmed mean"):
        table.add_column(column, justify="right")


def _comparison(row: LossRow | CopyRow) -> tuple[str, str, str]:
    """Cells of what differs from deletion: the mean, the median, the trimmed mean."""
    if row.robust is None:
        return "", "", ""
    median, trimmed_mean = centre_cell(row.robust.median), centre_cell(row.robust.trimmed_mean)
    return interval_cell(row.versus_deleted), median, trimmed_mean
