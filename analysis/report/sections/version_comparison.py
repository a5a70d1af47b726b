"""Section that compares two versions of a store: how much each holds, and the distribution of its labels."""

import duckdb

from mctrace.analysis.questions.catalogue import Row, run_analysis
from mctrace.analysis.report.figures import (
    BLUE,
    GREY,
    ORANGE,
    Axis,
    Trace,
    figure,
    intervals,
    line,
    reference,
    strokes,
)
from mctrace.analysis.report.formatting import count, counted, group_name, nats, percent
from mctrace.analysis.report.page import Plot, Section, Table
from mctrace.analysis.report.sections.signal import SHARE_BY_CHANCE, doubling

_COLORS = (ORANGE, BLUE)
_COUNTS = {
    "Runs": "select count(*) from runs",
    "Documents with labels": "select count(distinct document_id) from labels",
    "Snapshots with labels": "select count(distinct snapshot_id) from labels",
    "Actions measured": "select count(*) from effects where status = 'ok'",
    "Labels": "select count(*) from labels",
    "Settings (model, gists, dtype, estimator)": "select count(distinct (model_hash, gist_hash, dtype, "
    "estimator)) from labels",
}


def version_section(
    earlier: duckdb.DuckDBPyConnection, later: duckdb.DuckDBPyConnection, names: tuple[str, str]
) -> Section:
    """Compare versions of one store over two connections; `names` are their names on the page."""
    connections = dict(zip(names, (earlier, later), strict=True))
    distributions = {name: run_analysis(found, "value_distribution") for name, found in connections.items()}
    plots = []
    if any(distributions.values()):
        plots = [_signal_plot(connections), _spread_plot(distributions)]
    return Section(
        "versions",
        f"{names[0].capitalize()} and {names[1]} of the store",
        [
            "A version holds everything that was committed until then, so a later one contains an earlier "
            "one unless parts were left out. Where further labels of the same kind change a number, "
            "the difference is sampling; labels from other gists, models or policies bring differences of "
            "their own.",
        ],
        plots=plots,
        tables=[_count_table(connections), *([_value_table(distributions)] if plots else [])],
    )


def _count_table(connections: dict[str, duckdb.DuckDBPyConnection]) -> Table:
    rows = [
        [what, *(count(found.execute(query).fetchall()[0][0]) for found in connections.values())]
        for what, query in _COUNTS.items()
    ]
    return Table("How much each holds", ["", *connections], rows, numeric=frozenset(connections))


def _signal_plot(connections: dict[str, duckdb.DuckDBPyConnection]) -> Plot:
    traces, all_horizons, sizes = [], set[int](), []
    for (name, found), color in zip(connections.items(), _COLORS, strict=True):
        (horizons,) = run_analysis(found, "horizons")
        rows = [
            row
            for horizon in doubling(horizons["shortest_horizon"] or 0)
            for row in run_analysis(found, "signal", horizon=horizon)
            if row["action"] is None
        ]
        if not rows:
            continue
        all_horizons |= {row["horizon"] for row in rows}
        sizes.append(f"{name}: {counted(rows[-1]['num_labels'], 'label')}")
        traces.append(
            line(
                name,
                [row["horizon"] for row in rows],
                [row["share_of_labels"] for row in rows],
                [
                    f"{name}, {row['horizon']} tokens<br>{percent(row['share_of_labels'])} of labels<br>"
                    f"{counted(row['num_labels'], 'label')}, {counted(row['num_documents'], 'document')}"
                    for row in rows
                ],
                color=color,
            )
        )
    ticks = sorted(all_horizons)
    return Plot(
        "Labels beyond two standard errors",
        figure(
            [*traces, reference("normal noise, right standard errors", ticks, SHARE_BY_CHANCE)],
            Axis("horizon, tokens", is_log=True, tickvals=ticks),
            Axis("share of labels", tickformat=".2~%", from_zero=True),
        ),
        "All actions together; the higher above the dashed line, the more labels differ from zero by more "
        "than noise.",
        "; ".join(sizes),
    )


def _spread_plot(distributions: dict[str, list[Row]]) -> Plot:
    labelled = [
        (f"{group_name(row)}: {name}", row, color)
        for (name, rows), color in zip(distributions.items(), _COLORS, strict=True)
        for row in rows
    ]
    labelled.sort(key=lambda found: (found[1]["action"] == "collapse", found[1]["entry_level"]))
    names = [name for name, _, _ in labelled]
    rows = [row for _, row, _ in labelled]
    colors = [color for _, _, color in labelled]
    hover = [
        f"{name}<br>median {nats(row['p50'])}, mean {nats(row['mean'])}<br>5% {nats(row['p05'])}, "
        f"95% {nats(row['p95'])}<br>{counted(row['num_labels'], 'label')}"
        for name, row, _ in labelled
    ]

    def spread(low: str, high: str, thickness: float, cap: float) -> Trace:
        ends = [row[low] for row in rows], [row[high] for row in rows]
        middle = [row["p50"] for row in rows]
        return intervals("median", names, middle, ends, hover, colors=colors, thickness=thickness, cap=cap)

    return Plot(
        "Value of detail",
        figure(
            [
                spread("p05", "p95", thickness=2, cap=5),
                spread("p25", "p75", thickness=7, cap=0),
                strokes("mean", names, [row["mean"] for row in rows], hover, color=GREY),
            ],
            Axis("value of detail, nats per token"),
            Axis("", top_down=True),
            height=150 + 36 * len(rows),
            legend=False,
        ),
        "The dot is the median, the thick bar the middle half, the thin one the middle 90%, the grey stroke "
        "the mean.",
        "; ".join(
            f"{name}: {counted(sum(row['num_labels'] for row in found), 'label')}"
            for name, found in distributions.items()
        ),
    )


def _value_table(distributions: dict[str, list[Row]]) -> Table:
    columns = ["Labels", "5%", "25%", "Median", "Mean", "75%", "95%"]
    cells = [
        [
            group_name(row),
            name,
            count(row["num_labels"]),
            *(nats(row[key]) for key in ("p05", "p25", "p50", "mean", "p75", "p95")),
        ]
        for name, rows in distributions.items()
        for row in rows
    ]
    cells.sort(key=lambda cell: cell[0])
    return Table(
        "Value of detail, nats per token",
        ["Action and entry level", "Version", *columns],
        cells,
        numeric=frozenset(columns),
    )
