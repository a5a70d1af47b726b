"""Section on the origin of value: by document source, and by class of the predicted token."""

import duckdb

from mctrace.analysis.questions.catalogue import Row, run_analysis
from mctrace.analysis.report.figures import ACTION_COLORS, GREY, Axis, bars, figure
from mctrace.analysis.report.formatting import count, counted, group_name, nats, number, percent, text
from mctrace.analysis.report.page import Plot, Section, Table
from mctrace.analysis.report.sections.store import NO_LABELS

_UNKNOWN = "unknown"
_MOST_SOURCES = 25


def origin_section(connection: duckdb.DuckDBPyConnection) -> Section:
    """Value by source and by token class."""
    title = "Origin of value"
    sources = run_analysis(connection, "value_by_source")
    if not sources:
        return Section("origin", title, [NO_LABELS])
    classes = run_analysis(connection, "value_by_token_class")
    known = [row for row in classes if row["token_class"] != _UNKNOWN]
    notes = (
        []
        if known
        else ["This store does not keep its tokenizer's vocabulary, so token classes are unknown."]
    )
    return Section(
        "origin",
        title,
        [
            "Sources are ordered by the spread of their values: most documents have little to gain or lose "
            "from detail, and a few have much."
        ],
        plots=_class_plots(known),
        tables=[_source_table(sources[:_MOST_SOURCES], len(sources))],
        notes=notes,
    )


def _class_plots(rows: list[Row]) -> list[Plot]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(group_name(row), []).append(row)
    return [_class_plot(name, found) for name, found in groups.items()]


def _class_plot(name: str, rows: list[Row]) -> Plot:
    trace = bars(
        name,
        list(range(len(rows))),
        [row["mean"] for row in rows],
        0.8,
        [
            f"{row['token_class']}<br>mean {nats(row['mean'])}, mean size {number(row['mean_abs'])}<br>"
            f"{percent(row['share_of_value'])} of all value<br>{counted(row['num_tokens'], 'token')}"
            for row in rows
        ],
        color=ACTION_COLORS.get(rows[0]["action"], GREY),
    )
    made = figure(
        [{**trace, "x": [row["token_class"] for row in rows]}],
        Axis("class of the predicted token"),
        Axis("mean value of detail, nats per token"),
        height=280,
        legend=False,
    )
    return Plot(
        f"By token class: {name}",
        made,
        "How much detail helps in predicting such tokens, on average; bars above zero are where it helps.",
        f"{counted(sum(row['num_tokens'] for row in rows), 'token')} in the horizons of labels drawn by hash",
    )


def _source_table(rows: list[Row], num_sources: int) -> Table:
    columns = ["Labels", "Mean", "Spread", "Highest", "Beyond 2 stderr"]
    cells = [
        [
            text(row["source"]),
            text(row["split"]),
            count(row["num_labels"]),
            nats(row["mean"]),
            number(row["spread"]),
            nats(row["highest"]),
            percent(row["share_beyond"]),
        ]
        for row in rows
    ]
    return Table(
        f"{len(rows)} of {counted(num_sources, 'source')}, widest spread first; nats per token",
        ["Source", "Split", *columns],
        cells,
        numeric=frozenset(columns),
    )
