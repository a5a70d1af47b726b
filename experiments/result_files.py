"""Result files of the experiments and what their pages share: small JSON summaries, readable in a diff."""

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
_DIGITS = 10
_LINE_WIDTH = 400


def interval(found: Mapping[str, float] | None) -> list[float] | None:
    """[mean, low, high] of an interval as `mctrace evaluate` writes it; None for None."""
    return None if found is None else [found["mean"], found["low"], found["high"]]


def signed_interval(found: Sequence[float] | None) -> str:
    """An interval of a difference as a page shows it; "" for None."""
    return "" if found is None else "{:+.4f} [{:+.4f}, {:+.4f}]".format(*found)


def machine() -> dict[str, Any]:
    """Where an experiment ran, for its results."""
    return {
        "system": platform.platform(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of a page."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


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
