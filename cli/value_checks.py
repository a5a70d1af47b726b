"""Values that no key of the configuration can mean, whatever its type lets through.

Sections check the ranges of their own values; this is what they would otherwise all have to repeat: numbers
are finite and fit 64 bits, a truth value is no number, a name is not blank and of one line, seeds are not
negative.
"""

import math
from collections.abc import Iterator
from typing import Any

from mctrace.errors import ConfigError

_PATHS = ("corpus.paths",)
"""File names may hold any byte but zero; whoever opens them says which cannot be opened."""
_MANY_LINES = ("train.where", "train.pairs_where")
"""SQL, which may be written over several lines."""
_LARGEST = 2**63 - 1


def refuse_impossible(key: str, value: object, default: object, origin: str) -> None:
    """Raises ConfigError where `value` cannot be what `key`, which is `default` if nobody says, is set to."""
    for one in _scalars(value):
        if problem := _problem(key, one, default):
            shown = repr(one)
            shown = shown if len(shown) <= 40 else f"{shown[:40]}…"
            raise ConfigError(f"{key} = {shown} ({origin}): {problem}")


def _scalars(value: object) -> Iterator[object]:
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from _scalars(one)
    else:
        yield value


def _problem(key: str, value: Any, default: object) -> str | None:
    if isinstance(value, bool):
        return None if isinstance(default, bool) else "true and false are no value of this key"
    if isinstance(value, float) and not math.isfinite(value):
        return "must be a finite number"
    if isinstance(value, (int, float)):
        if abs(value) > _LARGEST:
            return f"must be within ±{_LARGEST}"
        if key.rsplit(".", 1)[-1] == "seed" and value < 0:
            return "a seed must be at least 0"
    if isinstance(value, str):
        if not value.strip() and (value or default != ""):
            return "must not be empty; leave the key out for its default"
        if key in _PATHS:
            return "must not hold a zero byte" if "\0" in value else None
        if not ("".join(value.split()) if key in _MANY_LINES else value).isprintable():
            return "must be one line of printable characters"
    return None
