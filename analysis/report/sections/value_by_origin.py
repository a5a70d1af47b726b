"""Section on the origin of value: by source, by the corpus' metadata, and by class of the predicted token."""

import duckdb

from mctrace.analysis.questions.catalogue import Row, run_analysis
from mctrace.analysis.report.figures import ACTION_COLORS, GREY, Axis, bars, figure, intervals, plain
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

_UNKNOWN = "unknown"
_MOST_SOURCES = 25
_MOST_CHARACTERS = 24
"""of a metadata value beside a plot"""


def origin_section(connection: duckdb.DuckDBPyConnection) -> Section:
    """Value by source, by metadata and by token class."""
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
        plots=[*_metadata_plots(run_analysis(connection, "value_by_metadata")), *_class_plots(known)],
        tables=[_source_table(sources[:_MOST_SOURCES], len(sources))],
        notes=notes,
    )


def _metadata_plots(rows: list[Row]) -> list[Plot]:
    columns: dict[str, list[Row]] = {}
    for row in rows:
        columns.setdefault(row["metadata_column"], []).append(row)
    return [_metadata_plot(column, found) for column, found in columns.items()]


def _metadata_plot(column: str, rows: list[Row]) -> Plot:
    hover = [
        f"{plain(row['value'])}<br>{group_name(row)}<br>mean {mean_nats(row)}, mean size "
        f"{number(row['mean_abs'])}<br>{counted(row['num_labels'], 'label')}, "
        f"{counted(row['num_documents'], 'document')}"
        for row in rows
    ]
    names = dict.fromkeys(row["value"] for row in rows)
    made = figure(
        [
            intervals(
                "mean",
                [f"{_shortened(row['value'])}: {group_name(row)}" for row in rows],
                [row["mean"] for row in rows],
                mean_ends(rows),
                hover,
                colors=[ACTION_COLORS.get(row["action"], GREY) for row in rows],
            )
        ],
        Axis("mean value of detail, nats per token"),
        Axis("", top_down=True),
        height=130 + 38 * len(rows),
        legend=False,
    )
    by_value = {value: max(r["num_documents"] for r in rows if r["value"] == value) for value in names}
    sizes = ", ".join(f"{_shortened(value)} {counted(n, 'document')}" for value, n in by_value.items())
    return Plot(
        f"By {column}",
        made,
        "Means over the documents with that value, with 95% intervals over documents; where intervals "
        "overlap, the difference may be chance.",
        f"{counted(sum(row['num_labels'] for row in rows), 'label')}; {sizes}",
    )


def _shortened(value: str) -> str:
    return value if len(value) <= _MOST_CHARACTERS else f"{value[: _MOST_CHARACTERS - 1]}…"


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
            f"{row['token_class']}<br>mean {mean_nats(row)}, mean size {number(row['mean_abs'])}<br>"
            f"{percent(row['share_of_value'])} of all value<br>{counted(row['num_tokens'], 'token')}"
            for row in rows
        ],
        color=ACTION_COLORS.get(rows[0]["action"], GREY),
        ends=mean_ends(rows),
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
        "How much detail helps in predicting such tokens, on average, with 95% intervals over documents; "
        "bars above zero are where it helps.",
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
