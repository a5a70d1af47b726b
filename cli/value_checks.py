"""Checks that hold for values of every key of the configuration.

Sections check the ranges of their own values. Here are the checks they would all repeat: numbers are finite
and fit 64 bits, true and false are no numbers, text is not blank and has one line.
"""

import math
from collections.abc import Iterator
from typing import Any

from mctrace.errors import ConfigError, shorten

_PATHS = ("corpus.paths",)
"""File names may hold any byte but zero; whoever opens them says which cannot be opened."""
_MANY_LINES = ("train.where", "train.pairs_where")
"""keys whose SQL may have several lines"""
_LARGEST = 2**63 - 1


def refuse_impossible(key: str, value: object, default: object, origin: str) -> None:
    """Raises ConfigError when `value`, given in `origin`, is impossible for `key` with that default."""
    for one in _scalars(value):
        if isinstance(one, str) and not one.strip() and (one or default != ""):
            remedy = "leave it out for its default"
            raise ConfigError(f"{key} must not be empty, got {one!r} ({origin}): {remedy}")
        if problem := _problem(key, one, default):
            raise ConfigError(f"{key} = {shorten(repr(one), 41)} ({origin}): {problem}")


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
    if isinstance(value, (int, float)) and abs(value) > _LARGEST:
        return f"must be within ±{_LARGEST}"
    if isinstance(value, str):
        if key in _PATHS:
            return "must not hold a zero byte" if "\0" in value else None
        if not ("".join(value.split()) if key in _MANY_LINES else value).isprintable():
            return "must be one line of printable characters"
    return None
