"""Sections on control measurements: spans left out altogether, and edits made together."""

import duckdb

from mctrace.analysis.questions.catalogue import Row, run_analysis
from mctrace.analysis.report.figures import (
    ACTION_COLORS,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    Axis,
    Trace,
    figure,
    line,
    plain,
    points,
)
from mctrace.analysis.report.formatting import count, counted, group_name, nats, number, percent, text
from mctrace.analysis.report.page import Plot, Section, Table


def control_sections(connection: duckdb.DuckDBPyConnection) -> list[Section]:
    """One section for each kind of control measurement that this version holds."""
    controls = run_analysis(connection, "control_points")
    joints = run_analysis(connection, "joint_points")
    sections = []
    if controls:
        sections.append(_control_section(controls, run_analysis(connection, "gist_damage")))
    if joints:
        sections.append(_joint_section(joints, run_analysis(connection, "additivity_gap")))
    return sections


def _control_section(rows: list[Row], tenths: list[Row]) -> Section:
    worse = sum(row["gist_value"] < 0 for row in rows) / len(rows)
    return Section(
        "controls",
        "Worth of the text, damage of the gist",
        [
            "A label compares a span's text with its gist. Leaving the span out altogether separates the "
            "two: the worth of the text against nothing, and that of the gist. Value of detail is the first "
            f"less the second. Here {percent(worse)} of gists did worse than nothing."
        ],
        plots=[_control_plot(rows), _damage_plot(tenths)],
    )


def _control_plot(rows: list[Row]) -> Plot:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(group_name(row), []).append(row)
    traces = [
        points(
            name,
            [row["information_value"] for row in found],
            [row["gist_value"] for row in found],
            [
                f"{plain(text(row['source']))}, node {row['node_level']}:{row['node_index']}<br>text "
                f"{nats(row['information_value'])}, gist {nats(row['gist_value'])}<br>value of detail "
                f"{nats(row['value_of_detail'])}"
                for row in found
            ],
            color=ACTION_COLORS.get(found[0]["action"], GREY),
            opacity=0.45 + 0.3 * (found[0]["entry_level"] % 2),
        )
        for name, found in sorted(groups.items())
    ]
    traces.append(_diagonal([row["information_value"] for row in rows], "gist as good as the text"))
    return Plot(
        "Gist against text, each against nothing",
        figure(
            traces,
            Axis("value of the text, nats per token"),
            Axis("value of the gist, nats per token"),
            height=400,
        ),
        "On the dashed line a gist carries all that its text does; below zero it is worse than leaving the "
        "span out.",
        _shown_of(len(rows), rows[0]["num_labels"], "label"),
    )


def _damage_plot(rows: list[Row]) -> Plot:
    levels = sorted({row["text_level"] for row in rows})
    traces = []
    for column, name, color in (
        ("information_value", "text", BLUE),
        ("gist_value", "gist", GREEN),
        ("damage", "what the gist loses", ORANGE),
    ):
        for level in levels:
            found = [row for row in rows if row["text_level"] == level]
            traces.append(
                line(
                    f"{name}, level {level}",
                    [row["tenth"] for row in found],
                    [row[column] for row in found],
                    [
                        f"{name}, level {level}, tenth {row['tenth']}<br>{nats(row[column])}<br>"
                        f"{counted(row['num_labels'], 'label')}"
                        for row in found
                    ],
                    color=color,
                    style=level,
                )
            )
    return Plot(
        "From the spans worth least to those worth most",
        figure(
            traces, Axis("tenth of the spans, by the worth of their text"), Axis("nats per token"), height=400
        ),
        "Where the gist's line stays below the text's, the gist loses what the span is worth; below zero it "
        "is worse than nothing.",
        counted(sum(row["num_labels"] for row in rows), "label"),
    )


def _joint_section(rows: list[Row], gaps_by_size: list[Row]) -> Section:
    gaps = sorted(abs(row["additivity_gap"]) for row in rows)
    sizes = sorted(abs(row["sum_of_singles"]) for row in rows)
    middle = len(rows) // 2
    return Section(
        "joints",
        "Do effects add up?",
        [
            "An allocator makes several edits at once and reads their values one by one. Here sets of edits "
            "were measured together. Half of the gaps between the joint effect and the sum of the single "
            f"ones are below {number(gaps[middle])} nats per token; half of the sums themselves are below "
            f"{number(sizes[middle])}."
        ],
        plots=[_joint_plot(rows)],
        tables=[_gap_table(gaps_by_size)],
    )


def _gap_table(rows: list[Row]) -> Table:
    columns = ["Sets", "Documents", "Mean |joint|", "Mean gap", "Mean |gap|", "Same sign", "Pearson", "Slope"]
    cells = [
        [
            count(row["num_actions"]),
            count(row["num_sets"]),
            count(row["num_documents"]),
            number(row["mean_abs_joint"]),
            nats(row["mean_gap"]),
            number(row["mean_abs_gap"]),
            percent(row["sign_agreement"]),
            number(row["pearson"]),
            number(row["slope"]),
        ]
        for row in rows
    ]
    return Table(
        "By edits made at once, nats per token; a slope of 1 where effects add up",
        ["Edits", *columns],
        cells,
        numeric=frozenset({"Edits", *columns}),
    )


def _joint_plot(rows: list[Row]) -> Plot:
    sums = [row["sum_of_singles"] for row in rows]
    hover = [
        f"{plain(text(row['source']))}, {counted(row['num_actions'], 'edit')}<br>"
        f"together {nats(row['delta_nll'])}, summed {nats(row['sum_of_singles'])}<br>"
        f"gap {nats(row['additivity_gap'])}"
        for row in rows
    ]
    return Plot(
        "Joint effect against the sum of single ones",
        figure(
            [
                points("sets of edits", sums, [row["delta_nll"] for row in rows], hover, color=GREEN),
                _diagonal(sums, "effects add up"),
            ],
            Axis("sum of single effects, nats per token"),
            Axis("joint effect, nats per token"),
            height=400,
        ),
        "On the dashed line edits do not interact; above it, making them together costs more than their sum.",
        _shown_of(len(rows), rows[0]["num_sets"], "set"),
    )


def _diagonal(values: list[float], name: str) -> Trace:
    ends = [min(0.0, *values), max(0.0, *values)]
    return {
        **line(name, ends, ends, [name, name], color=GREY, style=1, markers=False),
        "hoverinfo": "skip",
        "hovertemplate": None,
    }


def _shown_of(num_shown: int, num_all: int, noun: str) -> str:
    return counted(num_all, noun) if num_shown == num_all else f"{counted(num_shown, noun)} of {num_all:,}"
