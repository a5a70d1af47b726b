"""Section on value over the horizon: its decay with lag, and the effect of a longer horizon on labels."""

from collections.abc import Callable

import duckdb

from mctrace.analysis.questions.catalogue import Row, run_analysis
from mctrace.analysis.report.figures import ACTION_COLORS, GREY, Axis, Trace, Values, figure, line
from mctrace.analysis.report.formatting import (
    count,
    counted,
    group_name,
    mean_ends,
    mean_nats,
    number,
    percent,
)
from mctrace.analysis.report.page import Plot, Section
from mctrace.analysis.report.sections.store import NO_LABELS


def horizon_section(connection: duckdb.DuckDBPyConnection) -> Section:
    """Value by lag and by horizon, from effects stored token by token."""
    title = "Over the horizon"
    lags, horizons = run_analysis(connection, "value_by_lag"), run_analysis(connection, "value_by_horizon")
    if not lags:
        return Section("horizon", title, [NO_LABELS])
    return Section(
        "horizon",
        title,
        [
            "Effects are kept token by token; here are those of at most 300 trajectories, drawn by a hash of "
            "their ids. Where value lies near the cursor a short horizon captures all of it; where it "
            "does not decay, longer horizons average noise away and lose nothing."
        ],
        plots=[_lag_plot(lags), _size_plot(horizons)],
    )


def _lag_plot(rows: list[Row]) -> Plot:
    def hover(row: Row) -> str:
        return (
            f"{group_name(row)}<br>{count(row['lag_from'])} to {count(row['lag_to'])} tokens on<br>"
            f"mean {mean_nats(row)}<br>{percent(row['share_of_horizon'])} of the horizon's value<br>"
            f"{counted(row['num_labels'], 'label')}"
        )

    traces = [
        _line(
            found,
            [(max(row["lag_from"], 0.7) * row["lag_to"]) ** 0.5 for row in found],
            "mean",
            hover,
            mean_ends(found),
        )
        for found in _groups(rows)
    ]
    ticks = sorted({max(row["lag_from"], 1) for row in rows} | {max(row["lag_to"] for row in rows)})
    return Plot(
        "Value of detail by lag",
        figure(
            traces,
            Axis("tokens after the cursor", is_log=True, tickvals=ticks),
            Axis("mean value of detail, nats per token"),
        ),
        "Each dot is the mean over a stretch of the horizon that doubles, with its 95% interval over "
        "documents: a line that falls to zero means that an edit changes only the next few tokens.",
        f"{counted(sum(row['num_labels'] for row in rows if row['lag_from'] == 0), 'label')}",
    )


def _size_plot(rows: list[Row]) -> Plot:
    def hover(row: Row) -> str:
        return (
            f"{group_name(row)}, {count(row['horizon'])} tokens<br>spread {number(row['spread'])}<br>median "
            f"stderr {number(row['median_stderr'])}<br>{counted(row['num_labels'], 'label')}"
        )

    traces: list[Trace] = []
    for found in _groups(rows):
        horizons = [row["horizon"] for row in found]
        traces.append(_line(found, horizons, "spread", hover))
        noise = {**_line(found, horizons, "median_stderr", hover), "opacity": 0.45, "showlegend": False}
        traces.append(noise)
    ticks = sorted({row["horizon"] for row in rows})
    num_labels = sum(row["num_labels"] for row in rows if row["horizon"] == ticks[-1])
    return Plot(
        "Spread of labels and their noise, by horizon",
        figure(
            traces,
            Axis("horizon, tokens", is_log=True, tickvals=ticks),
            Axis("nats per token", is_log=True, tickvals=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3)),
        ),
        "Strong lines are the spread of labels, faint ones the median standard error of one: the further "
        "they part, the more of the spread is signal.",
        f"{counted(num_labels, 'label')} at the longest",
    )


def _groups(rows: list[Row]) -> list[list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(group_name(row), []).append(row)
    return list(groups.values())


def _line(
    rows: list[Row],
    x: list[float],
    column: str,
    hover: Callable[[Row], str],
    ends: tuple[Values, Values] | None = None,
) -> Trace:
    return line(
        group_name(rows[0]),
        x,
        [row[column] for row in rows],
        [hover(row) for row in rows],
        color=ACTION_COLORS.get(rows[0]["action"], GREY),
        style=rows[0]["entry_level"],
        ends=ends,
    )
