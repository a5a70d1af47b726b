"""Results of closed loops as tables in a terminal."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from mctrace.analysis.closed_loop.config import ClosedLoopConfig
from mctrace.analysis.closed_loop.summary import PolicySummary
from mctrace.analysis.report.formatting import counted
from mctrace.cli.display.tables import print_table
from mctrace.train.evaluation.statistics import Interval


def print_closed_loop(
    group: str,
    policies: Mapping[str, PolicySummary],
    config: ClosedLoopConfig,
    block_size: int,
    console: Console,
) -> None:
    """Print a row for each policy of one group of documents."""
    num_documents = max(summary.nll.num_documents for summary in policies.values())
    how = "95% bootstrap intervals paired by document" if num_documents > 1 else "one has no interval"
    table = Table(
        title=f"{group}: {counted(num_documents, 'document')}, {config.refocuses} refocuses each, w_max "
        f"{config.w_max}; nats per token, {how}"
    )
    hindsight = any(summary.share_of_hindsight for summary in policies.values())
    table.add_column("policy")
    for column in (
        f"NLL next {block_size}", "better than recency", *(["of hindsight's gain"] if hindsight else []),
        f"NLL next {config.horizon}",
        "better than recency", "edits", "swaps", "residency", "budget", "ms",
    ):  # fmt: skip
        table.add_column(column, justify="right")
    for name, summary in policies.items():
        table.add_row(
            name,
            f"{summary.nll.mean:.4f}",
            _signed(summary.less_than_recency),
            *([_share(summary.share_of_hindsight)] if hindsight else []),
            f"{summary.nll_horizon.mean:.4f}",
            _signed(summary.less_than_recency_horizon),
            f"{summary.edits:.2f}",
            f"{summary.swaps:.2f}",
            "" if summary.residency is None else f"{summary.residency:.0%}",
            f"{summary.budget_use:.0%}",
            f"{1000 * summary.seconds:.0f}",
        )
    print_table(table, console)


def _signed(interval: Interval) -> str:
    # z: what rounds to nothing is +0.0000 whatever its sign.
    if interval.num_documents < 2:
        return f"{interval.mean:+z.4f}"
    return f"{interval.mean:+z.4f} [{interval.low:+z.4f}, {interval.high:+z.4f}]"


def _share(interval: Interval | None) -> str:
    if interval is None or interval.num_documents < 2:
        return "" if interval is None else f"{interval.mean:.0%}"
    return f"{interval.mean:.0%} [{interval.low:.0%}, {interval.high:.0%}]"
