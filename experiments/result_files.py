"""Result files of the experiments: small JSON summaries of what their pages need, readable in a diff."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_DIGITS = 10
_LINE_WIDTH = 400


def interval(found: Mapping[str, float] | None) -> list[float] | None:
    """[mean, low, high] of an interval as `mctrace evaluate` writes it; None for None."""
    return None if found is None else [found["mean"], found["low"], found["high"]]


def write_results(file: Path, result: Mapping[str, Any]) -> None:
    """Write a summary with each value that fits on one line there.

    Floats keep ten significant digits: fewer would be rounded differently on the page now and then.
    """
    file.parent.mkdir(exist_ok=True)
    file.write_text(_laid_out(_rounded(result)) + "\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def _laid_out(value: Any, indent: str = "") -> str:
    line = json.dumps(value)
    if len(line) <= _LINE_WIDTH or not isinstance(value, dict | list):
        return line
    inner = indent + " "
    if isinstance(value, list):
        items = [_laid_out(item, inner) for item in value]
        return "[\n" + ",\n".join(inner + item for item in items) + f"\n{indent}]"
    items = [f"{json.dumps(key)}: {_laid_out(item, inner)}" for key, item in value.items()]
    return "{\n" + ",\n".join(inner + item for item in items) + f"\n{indent}}}"
