"""Tables and their cells, as wide as the terminal; a pipe or a file has no width."""

from rich.console import Console
from rich.table import Table

from mctrace.train.evaluation.statistics import Centre, Interval


def print_table(table: Table, console: Console) -> None:
    """Fit a terminal; elsewhere the table takes the width it needs."""
    (console if console.is_terminal else Console(width=4096)).print(table, soft_wrap=False)


def interval_cell(interval: Interval | None, digits: int = 3) -> str:
    """Mean and bounds of an interval; empty for None."""
    if interval is None:
        return ""
    return f"{interval.mean:z.{digits}f} [{interval.low:z.{digits}f}, {interval.high:z.{digits}f}]"


def centre_cell(centre: Centre, digits: int = 3) -> str:
    """Value and bounds of a robust centre."""
    return f"{centre.value:z.{digits}f} [{centre.low:z.{digits}f}, {centre.high:z.{digits}f}]"
