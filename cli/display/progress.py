"""Progress of long work: a live bar in a terminal, plain lines everywhere else."""

import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mctrace.cli.output_options import chosen
from mctrace.progress import Progress as ProgressListener
from mctrace.progress import Silent

_SECONDS_BETWEEN_LINES = 15.0


def make_progress(console: Console) -> ProgressListener:
    """A live bar for a terminal, plain lines for anything else; nothing under `--quiet`."""
    if chosen.quiet:
        return Silent()
    return LiveProgress(console) if console.is_terminal else PlainProgress(console)


class LiveProgress:
    """One bar with rate and time left, redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def start(self, label: str, total: float | None, unit: str) -> None:
        self.stop()
        counted = [
            TaskProgressColumn(),
            MofNCompleteColumn() if total is None or total == int(total) else TextColumn(""),
            TextColumn("{task.fields[note]}"),
        ]
        left = [TextColumn("left"), TimeRemainingColumn()]
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            *(counted if unit else []),
            TimeElapsedColumn(),
            *(left if total is not None else []),
            console=self._console,
        )
        self._bar.start()
        self._task = self._bar.add_task(label, total=total, note="")

    def advance(self, amount: float = 1, note: str = "") -> None:
        if self._bar and self._task is not None:
            self._bar.update(self._task, advance=amount, note=note)

    def stop(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None


class PlainProgress:
    """A line every 15 seconds: amount done, rate, time left. One that is not counted says that it begins."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._label = ""

    def start(self, label: str, total: float | None, unit: str) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._done, self._note = 0.0, ""
        self._printed_at: float | None = None
        self._started = self._printed = time.monotonic()
        if not unit:
            self._say(label)

    def advance(self, amount: float = 1, note: str = "") -> None:
        self._done, self._note = self._done + amount, note
        if time.monotonic() - self._printed >= _SECONDS_BETWEEN_LINES:
            self._print()

    def stop(self) -> None:
        if self._label:
            if self._printed_at != self._done:
                self._print()
            self._label = ""

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)

    def _print(self) -> None:
        self._printed = time.monotonic()
        elapsed = self._printed - self._started
        self._printed_at = self._done if self._unit else None
        if not self._unit:
            if elapsed >= _SECONDS_BETWEEN_LINES:
                self._say(f"{self._label}: {elapsed:.0f} s passed")
            return
        rate = self._done / elapsed if elapsed > 0 else 0.0
        note = f", {self._note}" if self._note else ""
        total, left = "", ""
        if self._total is not None:
            total = f" of {_short(self._total)}"
            left = f", {max(0.0, self._total - self._done) / rate:.0f} s left" if rate > 0 else ""
        self._say(
            f"{self._label}: {_short(self._done)}{total} {self._unit}{note}, "
            f"{_short(rate, 3)} {self._unit}/s, {elapsed:.0f} s passed{left}"
        )


def _short(value: float, digits: int = 4) -> str:
    """As many digits as tell something, and no exponent for large numbers."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.{digits}g}"
