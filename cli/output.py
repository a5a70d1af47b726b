"""Printing tables where they are read: a terminal has a width, a pipe or a file has none."""

from rich.console import Console
from rich.table import Table


def print_table(table: Table, console: Console) -> None:
    """Fits a terminal; elsewhere the table takes the width it needs."""
    (console if console.is_terminal else Console(width=4096)).print(table, soft_wrap=False)
