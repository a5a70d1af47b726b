"""Formatting of numbers and names on a page."""

import math
from collections.abc import Sequence
from typing import Any

MISSING = "–"


def count(value: int | None) -> str:
    """A whole number with thousands separated."""
    return MISSING if value is None else f"{value:,}"


def counted(value: int, noun: str) -> str:
    """A count with its noun: `1 label`, `2 labels`, `3 trajectories`."""
    nouns = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{value:,} {noun if value == 1 else nouns}"


def nats(value: float | None) -> str:
    """Nats per token, signed, with four decimals."""
    if value is None or not math.isfinite(value):
        return MISSING
    return _minus(f"{value:+z.4f}") if value else "0"


def mean_nats(row: dict[str, Any]) -> str:
    """A row's mean with its 95% interval over documents, nats per token."""
    if row["mean_stderr"] is None:
        return nats(row["mean"])
    return f"{nats(row['mean'])} ± {number(2 * row['mean_stderr'])}"


def mean_ends(rows: Sequence[dict[str, Any]]) -> tuple[list[float | None], list[float | None]]:
    """Lower and upper ends of the rows' 95% intervals over documents; None where there is none."""
    lower, upper = (
        [None if row["mean_stderr"] is None else row["mean"] + sign * 2 * row["mean_stderr"] for row in rows]
        for sign in (-1, 1)
    )
    return lower, upper


def total_nats(value: float | None) -> str:
    """Nats over many tokens, signed: two decimals, four below one nat."""
    if value is None or not math.isfinite(value):
        return MISSING
    return _minus(f"{value:+z.{2 if abs(value) >= 1 else 4}f}")


def number(value: float | None) -> str:
    """A number to three significant digits."""
    return MISSING if value is None or not math.isfinite(value) else _minus(f"{value:.3g}")


def percent(value: float | None) -> str:
    """A share, 0 to 1, to a tenth of a percent."""
    return MISSING if value is None or not math.isfinite(value) else f"{100 * value:.1f}%"


def _minus(written: str) -> str:
    return written.replace("-", "−")


def text(value: Any) -> str:
    """The value as text, a dash for nothing."""
    return MISSING if value is None or value == "" else str(value)


def short_hash(value: str | None) -> str:
    """The first eight characters of a hash."""
    return text(value)[:8]


def group_name(row: dict[str, Any]) -> str:
    """The action and entry_level of a row."""
    return "all actions" if row["action"] is None else f"{row['action']}, level {row['entry_level']}"
