"""Tolerant readers of a run folder: training curves and held-out scores.

`metrics.jsonl` has one JSON object a line with any metrics, `{"step": 100, "split": "train", "loss": 0.5}`.
`evaluation.json` is one object, `{"checkpoints": […], "split": …, "target": …, "num_snapshots": …, "scorers":
{name: {metric: {"mean": …, "low": …, "high": …, "num_documents": …}}}}`, where all but the scorers and their
means may be missing, and one `checkpoint` may stand for the list. Malformed entries are left out and counted.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mctrace.train.run_files import EVALUATION_FILE, METRICS_FILE

Curve = list[tuple[int, float | None]]
"""(step, value) by ascending step; None where the number was not finite"""


@dataclass(frozen=True)
class TrainingCurves:
    """Metrics of a run by step."""

    curves: Mapping[str, Mapping[str, Curve]]
    """metric -> split -> curve; metrics without a single number are left out"""
    last_step: int
    num_unreadable: int
    """lines left out"""


@dataclass(frozen=True)
class Score:
    """One metric of one scorer: the mean over documents, with its interval where there is one."""

    scorer: str
    metric: str
    mean: float
    low: float | None
    high: float | None
    num_documents: int | None


@dataclass(frozen=True)
class HeldOutScores:
    """Scores of an evaluation, in the file's order."""

    checkpoints: tuple[str, ...]
    split: str | None
    target: str | None
    num_snapshots: int | None
    scores: tuple[Score, ...]
    num_unreadable: int
    """scores left out"""


def read_training_curves(folder: Path) -> TrainingCurves | None:
    """Curves of the run's metrics file; None where there is no such file.

    Of a step that was written twice, as after a resume, the last line counts.
    """
    try:
        content = (folder / METRICS_FILE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    points: dict[str, dict[str, dict[int, float | None]]] = {}
    num_unreadable = 0
    for text in content.split("\n"):
        if not text.strip():
            continue
        record = _parse(text)
        step = record.pop("step", None) if isinstance(record, dict) else None
        if not isinstance(record, dict) or not isinstance(step, int):
            num_unreadable += 1
            continue
        split = str(record.pop("split", "train"))
        for metric, value in record.items():
            if value is None or _is_number(value):
                points.setdefault(metric, {}).setdefault(split, {})[step] = _finite(value)
    curves = {
        metric: {split: sorted(found.items()) for split, found in by_split.items()}
        for metric, by_split in points.items()
        if any(value is not None for found in by_split.values() for value in found.values())
    }
    steps = [curve[-1][0] for by_split in curves.values() for curve in by_split.values()]
    return TrainingCurves(curves, max(steps, default=0), num_unreadable)


def read_held_out(folder: Path) -> HeldOutScores | None:
    """Scores of the run's evaluation file; None where there is no such file."""
    try:
        content = (folder / EVALUATION_FILE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = _parse(content)
    if not isinstance(found, dict):
        return HeldOutScores((), None, None, None, (), num_unreadable=1)
    scores: list[Score] = []
    num_unreadable = 0
    for scorer, metrics in _items(found.get("scorers")):
        for metric, estimate in _items(metrics):
            score = _score(scorer, metric, estimate)
            if score is None:
                num_unreadable += 1
            else:
                scores.append(score)
    checkpoints = found.get("checkpoints", found.get("checkpoint"))
    return HeldOutScores(
        tuple(
            str(name) for name in (checkpoints if isinstance(checkpoints, list) else [checkpoints]) if name
        ),
        _string(found.get("split")),
        _string(found.get("target")),
        _whole(found.get("num_snapshots")),
        tuple(scores),
        num_unreadable,
    )


def _score(scorer: str, metric: str, estimate: Any) -> Score | None:
    mean = _finite(estimate.get("mean")) if isinstance(estimate, dict) else None
    if mean is None:
        return None
    return Score(
        scorer,
        metric,
        mean,
        _finite(estimate.get("low")),
        _finite(estimate.get("high")),
        _whole(estimate.get("num_documents")),
    )


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _items(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


def _string(value: Any) -> str | None:
    return None if value is None else str(value)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _finite(value: Any) -> float | None:
    return float(value) if _is_number(value) and math.isfinite(value) else None
