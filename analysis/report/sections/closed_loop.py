"""Section on a closed loop, from its JSON file in a run folder."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mctrace.analysis.report.figures import BLUE, GREY, Axis, figure, intervals, plain
from mctrace.analysis.report.formatting import MISSING, count, nats, percent, text
from mctrace.analysis.report.page import Plot, Section, Table
from mctrace.train.run_files import CLOSED_LOOP_FILE

_TITLE = "Closed loop: the worth of the contexts"
_COLUMNS = ("NLL", "Better than recency", "Of hindsight's gain", "Swaps", "Residency", "Budget", "ms")


def closed_loop_sections(run: Path | None) -> list[Section]:
    """A table and a plot per group; nothing without a closed loop, a sentence where its file is damaged."""
    if run is None or not (run / CLOSED_LOOP_FILE).is_file():
        return []
    found = _read(run)
    if found is None:
        return [_unreadable(run)]
    return [_section(found)] if _mapping(found.get("groups")) else []


def _unreadable(run: Path) -> Section:
    sentence = (
        f"{run / CLOSED_LOOP_FILE} is damaged: the same `mctrace evaluate --closed-loop` writes it again."
    )
    return Section("closed-loop", _TITLE, [sentence])


def _section(found: Mapping[str, Any]) -> Section:
    settings, groups = _mapping(found.get("closed_loop")), _mapping(found.get("groups"))
    return Section(
        "closed-loop",
        _TITLE,
        [
            f"Held-out documents of the {text(found.get('split'))} split stream by, and every "
            f"{text(found.get('block_size'))} tokens each policy edits a working context of at most "
            f"{text(settings.get('w_max'))} positions over {text(settings.get('window'))} tokens, "
            f"{text(settings.get('refocuses'))} times a document. What counts is the frozen model's "
            f"loss on the next {text(found.get('block_size'))} tokens. Differences are paired by document.",
            "Hindsight is a ceiling and not a policy: it measures edits exactly on the very tokens that then "
            f"judge it, {text(settings.get('max_candidates'))} candidates a refocus. literal_hindsight "
            "has the same labels and does what a perfect learner of the target literal would do.",
        ],
        plots=[plot for group, policies in groups.items() if (plot := _plot(group, _mapping(policies)))],
        tables=[_table(group, _mapping(policies)) for group, policies in groups.items()],
    )


def _read(run: Path) -> Mapping[str, Any] | None:
    try:
        found = json.loads((run / CLOSED_LOOP_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _plot(group: str, policies: Mapping[str, Any]) -> Plot | None:
    gains = {
        name: gain
        for name, summary in policies.items()
        if _number(gain := _mapping(_mapping(summary).get("less_than_recency")), "mean") is not None
    }
    if not gains:
        return None
    columns = {end: [_number(gain, end) for gain in gains.values()] for end in ("mean", "low", "high")}
    hover = [
        f"{plain(name)}<br>{nats(mean)}<br>interval {nats(low)} to {nats(high)}"
        for name, mean, low, high in zip(gains, *columns.values(), strict=True)
    ]
    trace = intervals(
        "better than recency",
        list(gains),
        columns["mean"],
        (columns["low"], columns["high"]),
        hover,
        colors=[GREY if name in ("recency", "hindsight", "full") else BLUE for name in gains],
    )
    num_documents = count(_whole(next(iter(gains.values()))))
    return Plot(
        f"{group}: nats per token better than recency",
        figure(
            [trace],
            Axis("nats per token"),
            Axis("", top_down=True),
            height=110 + 34 * len(gains),
            legend=False,
        ),
        "Right of zero is better than keeping the newest in detail; grey dots are no learned policies.",
        f"{num_documents} documents",
    )


def _table(group: str, policies: Mapping[str, Any]) -> Table:
    rows = [[name, *_cells(_mapping(summary))] for name, summary in policies.items()]
    return Table(f"{group}: every policy", ["Policy", *_COLUMNS], rows, frozenset(_COLUMNS))


def _cells(summary: Mapping[str, Any]) -> Iterator[str]:
    nll = _number(_mapping(summary.get("nll")), "mean")
    seconds, swaps = _number(summary, "seconds"), _number(summary, "swaps")
    yield MISSING if nll is None else f"{nll:.4f}"
    yield _with_interval(summary.get("less_than_recency"), nats)
    yield _with_interval(summary.get("share_of_hindsight"), percent)
    yield MISSING if swaps is None else f"{swaps:.2f}"
    yield percent(_number(summary, "residency"))
    yield percent(_number(summary, "budget_use"))
    yield MISSING if seconds is None else f"{1000 * seconds:.0f}"


def _with_interval(interval: Any, written: Callable[[float | None], str]) -> str:
    ends = [_number(_mapping(interval), name) for name in ("mean", "low", "high")]
    if ends[0] is None:
        return MISSING
    return f"{written(ends[0])} ({written(ends[1])} to {written(ends[2])})"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(values: Mapping[str, Any], name: str) -> float | None:
    value = values.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return None
    return float(value)


def _whole(values: Mapping[str, Any]) -> int | None:
    number = _number(values, "num_documents")
    return None if number is None else int(number)
