"""Section that compares GistNets: the same questions, measured with each of the store's kinds of gists."""

import duckdb

from mctrace.analysis.questions.catalogue import Row, run_analysis
from mctrace.analysis.report.figures import GREY, ORANGE, PURPLE, Axis, Trace, figure, intervals, strokes
from mctrace.analysis.report.formatting import (
    count,
    counted,
    group_name,
    nats,
    number,
    percent,
    short_hash,
    text,
)
from mctrace.analysis.report.page import Plot, Section, Table

_COLORS = (GREY, PURPLE, ORANGE)


def gist_sections(connection: duckdb.DuckDBPyConnection) -> list[Section]:
    """The comparison; no section for a store whose labels come from one GistNet."""
    num_gistnets = connection.execute("select count(distinct gist_hash) from labels").fetchall()[0][0]
    if num_gistnets < 2:
        return []
    title = "Gists side by side"
    rows = run_analysis(connection, "gist_values")
    if not rows:
        return [
            Section(
                "gists",
                title,
                [
                    f"The labels come from {num_gistnets} GistNets, but no question was asked with each of "
                    "them: collect the same documents with the same settings and another gists.source."
                ],
            )
        ]
    return [
        Section(
            "gists",
            title,
            [
                f"The labels come from {num_gistnets} GistNets. Here stand only questions each was asked: "
                "the same document, LOD map, cursor and action. A label measures the worth of a span and the "
                "damage of its gist; with better gists less of it is damage, and values move towards zero.",
                "The base loss is that of the unedited contexts, which hold gists themselves: lower means "
                "that the base model reads these gists better.",
            ],
            plots=[_spread_plot(rows)],
            tables=[_table(rows)],
        )
    ]


def _spread_plot(rows: list[Row]) -> Plot:
    hashes = sorted({row["gist_hash"] for row in rows})
    names = [f"{group_name(row)}: {_gist_name(row)}" for row in rows]
    colors = [_COLORS[hashes.index(row["gist_hash"]) % len(_COLORS)] for row in rows]
    hover = [
        f"{name}<br>median {nats(row['p50'])}, mean {nats(row['mean'])}<br>5% {nats(row['p05'])}, "
        f"95% {nats(row['p95'])}<br>{counted(row['num_labels'], 'label')}"
        for name, row in zip(names, rows, strict=True)
    ]

    def spread(low: str, high: str, thickness: float, cap: float) -> Trace:
        ends = [row[low] for row in rows], [row[high] for row in rows]
        middle = [row["p50"] for row in rows]
        return intervals("median", names, middle, ends, hover, colors=colors, thickness=thickness, cap=cap)

    return Plot(
        "Value of detail with each kind of gist",
        figure(
            [
                spread("p05", "p95", thickness=2, cap=5),
                spread("p25", "p75", thickness=7, cap=0),
                strokes("mean", names, [row["mean"] for row in rows], hover),
            ],
            Axis("value of detail, nats per token"),
            Axis("", top_down=True),
            height=150 + 40 * len(rows),
            legend=False,
        ),
        "The dot is the median, the thick bar the middle half, the thin one the middle 90%, the grey stroke "
        "the mean.",
        f"{counted(sum(row['num_labels'] for row in rows), 'label')} from "
        f"{counted(max(row['num_documents'] for row in rows), 'document')}",
    )


def _table(rows: list[Row]) -> Table:
    columns = ["Labels", "Base loss", "5%", "25%", "Median", "Mean", "75%", "95%", "Beyond 2 stderr"]
    cells = [
        [
            group_name(row),
            _gist_name(row),
            count(row["num_labels"]),
            number(row["baseline_nll"]),
            *(nats(row[column]) for column in ("p05", "p25", "p50", "mean", "p75", "p95")),
            percent(row["share_beyond"]),
        ]
        for row in rows
    ]
    return Table(
        "Value of detail, nats per token",
        ["Action and entry level", "Gists", *columns],
        cells,
        numeric=frozenset(columns),
    )


def _gist_name(row: Row) -> str:
    name = text(row["gist_name"])
    return name if row["gist_hash"] == row["gist_name"] else f"{name} ({short_hash(row['gist_hash'])})"
