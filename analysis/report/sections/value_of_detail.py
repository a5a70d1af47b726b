"""Sections on value of detail: by action and level, by distance, and the most valuable labels."""

import duckdb

from mctrace.analysis.questions.catalogue import Row, run_analysis
from mctrace.analysis.report.figures import (
    ACTION_COLORS,
    GREY,
    Axis,
    Trace,
    bars,
    figure,
    intervals,
    line,
    strokes,
)
from mctrace.analysis.report.formatting import (
    count,
    counted,
    group_name,
    mean_ends,
    mean_nats,
    nats,
    number,
    percent,
    text,
)
from mctrace.analysis.report.page import Plot, Section, Table
from mctrace.analysis.report.sections.store import NO_LABELS

_VALUE = "value of detail, nats per token"


def value_section(connection: duckdb.DuckDBPyConnection) -> Section:
    """Distribution of the value of detail by action and entry_level."""
    title = "Value of detail by level and action"
    distribution = run_analysis(connection, "value_distribution")
    if not distribution:
        return Section("value", title, [NO_LABELS])
    bins = run_analysis(connection, "value_histogram")
    return Section(
        "value",
        title,
        [
            "The value of detail of a node is the loss with its coarse form less the loss with its fine "
            "form: above zero, detail helps; below zero, the coarse form does better. An expand and a "
            "collapse of the same kind of node are on the same scale. Shares and quantiles are of all "
            "legal actions: a sampled action weighs 1 / its probability of being sampled."
        ],
        plots=[
            _spread_plot(distribution),
            _cumulative_plot(run_analysis(connection, "cumulative_share")),
            *(_histogram(row, bins) for row in distribution),
        ],
        tables=[_distribution_table(distribution)],
    )


def distance_section(connection: duckdb.DuckDBPyConnection) -> Section:
    """Value of detail against distance to the cursor."""
    title = "Value of detail against distance"
    rows = run_analysis(connection, "value_by_distance")
    if not rows:
        return Section("distance", title, [NO_LABELS])
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(group_name(row), []).append(row)
    return Section(
        "distance",
        title,
        [
            "Distance is counted in tokens from the end of the node to the cursor, in bins that double. "
            "The policy that laid out the contexts decides which levels occur at which distance, so "
            "compare along one plot rather than across."
        ],
        plots=[_distance_plot(name, found) for name, found in groups.items()],
    )


def top_section(connection: duckdb.DuckDBPyConnection) -> Section:
    """The most valuable single labels."""
    title = "Most valuable labels"
    rows = run_analysis(connection, "top_labels")
    if not rows:
        return Section("top", title, [NO_LABELS])
    cells = [
        [
            text(row["source"]),
            nats(row["value_of_detail"]),
            number(row["stderr"]),
            group_name(row),
            count(row["distance_to_cursor"]),
            text(row["split"]),
            f"{row['node_level']}:{row['node_index']}",
            count(row["cursor"]),
            count(row["num_cursors"]),
        ]
        for row in rows
    ]
    columns = [
        "Source", "Value", "Stderr", "Action and entry level", "Distance", "Split", "Node", "Cursor",
        "Cursors",
    ]  # fmt: skip
    numeric = frozenset({"Value", "Stderr", "Distance", "Node", "Cursor", "Cursors"})
    return Section(
        "top",
        title,
        [
            f"The {counted(len(rows), 'action')} with the highest value of detail, each at the cursor where "
            "it is highest. They were picked for coming out high, so most would come out lower if measured "
            "again.",
            "Value and standard error in nats per token, distance to the cursor and cursor in tokens; a "
            "node is level:index, and the last column says at how many cursors the action was read.",
        ],
        tables=[Table(f"Top {len(rows)}", columns, cells, numeric)],
    )


def _cumulative_plot(rows: list[Row]) -> Plot:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(group_name(row), []).append(row)
    traces = [
        line(
            name,
            [0, *(row["share_of_actions"] for row in found)],
            [0, *(row["share_of_value"] for row in found)],
            ["", *(
                f"{name}<br>the largest {percent(row['share_of_actions'])} of actions<br>"
                f"hold {percent(row['share_of_value'])} of |value|"
                for row in found
            )],
            color=ACTION_COLORS.get(found[0]["action"], GREY),
            style=found[0]["entry_level"] or 0,
            markers=False,
        )
        for name, found in groups.items()
    ]  # fmt: skip
    every = groups.get("all actions", [])
    tenth = max((row["share_of_value"] for row in every if row["percent"] <= 10), default=None)
    sizes = (
        f"{counted(every[0]['num_labels'], 'label')}, {counted(every[0]['num_documents'], 'document')}"
        if every
        else "no label differs from zero"
    )
    return Plot(
        "Cumulative share of |value of detail|",
        figure(
            traces,
            Axis("share of actions, the largest |value| first", tickformat=".2~%"),
            Axis("share of the total of |value|", tickformat=".2~%", from_zero=True),
            height=380,
        ),
        "The steeper a line begins, the fewer edits matter; the diagonal would mean that all are worth the "
        f"same. Here the largest tenth holds {percent(tenth)}. Noise alone bends the line as well: it gives "
        "some labels large values.",
        sizes,
    )


def _spread_plot(rows: list[Row]) -> Plot:
    names = [group_name(row) for row in rows]
    colors = [ACTION_COLORS.get(row["action"], GREY) for row in rows]
    hover = [
        f"{group_name(row)}<br>median {nats(row['p50'])}, mean {mean_nats(row)}<br>"
        f"5% {nats(row['p05'])}, 25% {nats(row['p25'])}, 75% {nats(row['p75'])}, 95% {nats(row['p95'])}<br>"
        f"{counted(row['num_labels'], 'label')}, {counted(row['num_documents'], 'document')}"
        for row in rows
    ]

    def spread(low: str, high: str, thickness: float, cap: float) -> Trace:
        ends = [row[low] for row in rows], [row[high] for row in rows]
        middle = [row["p50"] for row in rows]
        return intervals("median", names, middle, ends, hover, colors=colors, thickness=thickness, cap=cap)

    traces = [
        spread("p05", "p95", thickness=2, cap=5),
        spread("p25", "p75", thickness=7, cap=0),
        strokes("mean", names, [row["mean"] for row in rows], hover),
    ]
    return Plot(
        "Distribution of the value of detail",
        figure(
            traces,
            Axis(_VALUE),
            Axis("", top_down=True),
            height=150 + 46 * len(rows),
            legend=False,
        ),
        "The dot is the median, the thick bar the middle half, the thin one the middle 90%, the grey "
        "stroke the mean; a mean to the right of the dot means that a few actions are worth far more "
        "than the rest.",
        _counts(rows),
    )


def _histogram(group: Row, bins: list[Row]) -> Plot:
    found = [row for row in bins if group_name(row) == group_name(group)]
    return Plot(
        f"Distribution: {group_name(group)}",
        figure(
            [
                bars(
                    group_name(group),
                    [row["bin_centre"] for row in found],
                    [row["share"] for row in found],
                    bin_width(bins),
                    [
                        f"{bin_name(row)}<br>{percent(row['share'])} of legal actions<br>"
                        f"{counted(row['num_labels'], 'label')}"
                        for row in found
                    ],
                    color=ACTION_COLORS.get(group["action"], GREY),
                )
            ],
            Axis(_VALUE, span=bin_span(bins)),
            Axis("share of actions", tickformat=".2~%", from_zero=True),
            height=260,
            legend=False,
        ),
        "Each bar is the share of such actions whose value lies there; bars right of zero are where detail "
        "helps, and the outermost ones gather everything beyond.",
        f"{counted(group['num_labels'], 'label')}, {counted(group['num_documents'], 'document')}, worth "
        f"{count(round(group['effective_num_labels']))} equally weighted labels",
    )


def bin_width(bins: list[Row]) -> float:
    """The width the inner bins share, nats per token; 1 where all values are zero."""
    widths = [row["bin_to"] - row["bin_from"] for row in bins if None not in (row["bin_from"], row["bin_to"])]
    return widths[0] if widths and widths[0] > 0 else 1.0


def bin_span(bins: list[Row]) -> tuple[float, float]:
    """Range from the first bar to the last that includes zero, nats per token."""
    margin = 0.75 * bin_width(bins)
    centres = [0.0, *(row["bin_centre"] for row in bins)]
    return min(centres) - margin, max(centres) + margin


def bin_name(row: Row) -> str:
    """The range of a bin in words."""
    if row["bin_from"] is None:
        return f"below {nats(row['bin_to'])}"
    if row["bin_to"] is None:
        return f"{nats(row['bin_from'])} and above"
    return f"{nats(row['bin_from'])} to {nats(row['bin_to'])}"


def _distance_plot(name: str, rows: list[Row]) -> Plot:
    # On a logarithmic axis; the first bin starts at 0 and stands at half its end.
    x = [(max(row["distance_from"], row["distance_to"] / 4) * row["distance_to"]) ** 0.5 for row in rows]
    hover = [
        f"{count(row['distance_from'])} to {count(row['distance_to'])} tokens<br>median "
        f"{nats(row['p50'])}<br>middle half {nats(row['p25'])} to {nats(row['p75'])}<br>mean "
        f"{mean_nats(row)}<br>{counted(row['num_labels'], 'label')}, "
        f"{counted(row['num_documents'], 'document')}"
        for row in rows
    ]
    quartiles = [row["p25"] for row in rows], [row["p75"] for row in rows]
    color = ACTION_COLORS.get(rows[0]["action"], GREY)
    traces = [
        line("median and middle half", x, [row["p50"] for row in rows], hover, color=color, ends=quartiles),
        line(
            "mean and 95% interval",
            x,
            [row["mean"] for row in rows],
            hover,
            color=GREY,
            style=2,
            ends=mean_ends(rows),
        ),
    ]
    ticks = sorted({max(row["distance_from"], 8) for row in rows} | {rows[-1]["distance_to"]})
    return Plot(
        f"By distance: {name}",
        figure(
            traces,
            Axis("distance to cursor, tokens", is_log=True, tickvals=ticks),
            Axis(_VALUE),
            height=300,
        ),
        "Coloured dots are medians and their bars the middle half of the actions at that distance; where "
        "such a bar spans zero, distance alone does not decide whether detail helps.",
        _counts(rows),
    )


def _distribution_table(rows: list[Row]) -> Table:
    quantiles = {
        "Lowest": "lowest", "5%": "p05", "25%": "p25", "Median": "p50", "75%": "p75", "95%": "p95",
        "Highest": "highest",
    }  # fmt: skip
    cells = [
        [
            group_name(row),
            count(row["num_labels"]),
            count(row["num_documents"]),
            mean_nats(row),
            *(nats(row[column]) for column in quantiles.values()),
        ]
        for row in rows
    ]
    columns = ["Labels", "Documents", "Mean ± 2 stderr", *quantiles]
    return Table(
        "Value of detail, nats per token", ["Action and entry level", *columns], cells, frozenset(columns)
    )


def _counts(rows: list[Row]) -> str:
    labels = counted(sum(row["num_labels"] for row in rows), "label")
    documents = counted(max(row["num_documents"] for row in rows), "document")
    return f"{labels}, each row or point from at most {documents}"
