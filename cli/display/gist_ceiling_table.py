"""The ladder of ceilings as a table in a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from mctrace.cli.display.tables import print_table


def print_ceilings(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print one line per rung: losses less deletion's, before and after optimising."""
    table = Table(
        title="Gists optimised directly: nats per token less deletion's, mean and 95% interval over documents"
    )
    for column in ("K", "vectors", "place", "optimised for"):
        table.add_column(column)
    for column in ("at first", "reached", "copies at first", "copies reached", "s a window"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            str(row["block_size"]), str(row["num_vectors"]), row["place"], row["objective"],
            *(_cell(row[key]) for key in ("start", "reached", "copies_start", "copies_reached")),
            f"{row['seconds']:.1f}",
        )  # fmt: skip
    print_table(table, console)


def _cell(interval: Mapping[str, float]) -> str:
    return f"{interval['mean']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"
