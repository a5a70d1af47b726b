"""Section on signal against noise: how many labels exceed their own noise, and how far their order lasts."""

import duckdb

from mctrace.analysis.questions.catalogue import Row, run_analysis
from mctrace.analysis.report.figures import (
    ACTION_COLORS,
    BLUE,
    GREEN,
    GREY,
    PURPLE,
    Axis,
    Trace,
    figure,
    line,
    reference,
)
from mctrace.analysis.report.formatting import count, counted, group_name, number, percent
from mctrace.analysis.report.page import Plot, Section, Table
from mctrace.analysis.report.sections.store import NO_LABELS

SHARE_BY_CHANCE = 0.0455003
"""of a normal distribution beyond two standard deviations, were the standard errors right"""

_SCOPES = {
    "kind": ("within a snapshot, same action and level", PURPLE),
    "snapshot": ("within a snapshot", BLUE),
    "all": ("all labels pooled", GREEN),
}
_FIRST_HORIZON = 16
_NO_STDERR = (
    "No label here has a standard error: gradient estimates are one number per stretch of a horizon, and a "
    "horizon of one token has no spread. What an estimate is off by is what its run's calibration against "
    "exact labels says, on the run's own page; labels that are measured exactly as well "
    "(collect.audit_fraction) appear here."
)


def signal_section(
    connection: duckdb.DuckDBPyConnection, horizons: Row, *, keeps_tokens: bool = True
) -> Section:
    """Signal by horizon and stability of ranks; `horizons` is the row of horizons.sql.

    `keeps_tokens` is false for a derived dataset, whose labels are at the collected horizon alone.
    """
    longest = horizons["shortest_horizon"] or 0
    measured = doubling(longest) if keeps_tokens else doubling(longest)[-1:]
    by_horizon = [row for horizon in measured for row in run_analysis(connection, "signal", horizon=horizon)]
    if not by_horizon:
        found = _NO_STDERR if horizons["num_settings"] else NO_LABELS
        return Section("signal", "Signal against noise", [found])
    stability = [
        row
        for half in (doubling(longest // 2) if keeps_tokens else [])
        for row in run_analysis(connection, "rank_stability", half_horizon=half)
    ]
    collected = [row for row in by_horizon if row["horizon"] == longest]
    halves = run_analysis(connection, "half_differences") if keeps_tokens else []
    return Section(
        "signal",
        "Signal against noise",
        [
            "A label is a mean over the horizon's tokens, in nats per token, and its standard error over "
            "those tokens says how far off it may be. Read this first: differences smaller than the noise "
            "mean little, whatever the other sections show.",
            _headline(collected[0], halves),
        ],
        plots=[
            _share_plot(by_horizon, [row for row in halves if row["horizon"] in measured]),
            *([_stability_plot(stability, longest, collected[0]["num_labels"])] if stability else []),
        ],
        tables=[_share_table(collected)],
        notes=[
            "The standard error is the larger of the one that takes the tokens of a horizon for independent "
            "and the one that allows for correlated neighbours. It is still too small for labels that rest "
            "on a few tokens, so that noise alone puts more than 4.6% beyond two of them: the dashed line is "
            "measured on this store, as the share of labels whose halves of the horizon contradict each "
            "other.",
            "A label that stands out means that the edit moved the loss, not that this node was the one to "
            "pick: a shift that all actions share, such as that of gists the model cannot read, stands out "
            "as well. The second plot is about the order among actions, which is what a scorer has to "
            "learn.",
            "That second plot is no upper bound on a scorer. If both stretches were one lasting value plus "
            "independent noise of the same size, a scorer that knew the lasting value would correlate with "
            "one stretch at about the square root of what is shown.",
        ],
    )


def doubling(longest: int) -> list[int]:
    """16, 32, 64, … below `longest`, then `longest` itself; tokens."""
    horizons = []
    horizon = _FIRST_HORIZON
    while horizon < longest:
        horizons.append(horizon)
        horizon *= 2
    return [*horizons, longest] if longest > 0 else []


def _headline(overall: Row, halves: list[Row]) -> str:
    found = [row["share_beyond"] for row in halves if row["horizon"] == overall["horizon"]]
    by_chance = (
        f"the two halves of a horizon differ by as much in {percent(found[0])} of them"
        if found
        else f"normal noise with right standard errors would put {percent(SHARE_BY_CHANCE)} there"
    )
    return (
        f"At {overall['horizon']} tokens, {percent(overall['share_of_labels'])} of "
        f"{counted(overall['num_labels'], 'label')} lie more than two standard errors from zero; {by_chance}."
    )


def _share_plot(rows: list[Row], halves: list[Row]) -> Plot:
    horizons = sorted({row["horizon"] for row in rows})
    groups: dict[tuple[str | None, int | None], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["action"], row["entry_level"]), []).append(row)
    traces = [
        line(
            group_name(found[0]),
            [row["horizon"] for row in found],
            [row["share_of_labels"] for row in found],
            [_share_hover(row) for row in found],
            color=ACTION_COLORS.get(action or "", GREY),
            style=entry_level or 0,
        )
        for (action, entry_level), found in groups.items()
    ]
    last = [row for row in rows if row["horizon"] == horizons[-1]]
    return Plot(
        "Labels beyond two standard errors, by horizon",
        figure(
            [*traces, _noise_line(horizons, halves)],
            Axis("horizon, tokens", is_log=True, tickvals=horizons),
            Axis("share of labels", tickformat=".2~%", from_zero=True),
            height=380,
        ),
        "The higher above the dashed line, the more labels of that kind differ from zero by more than "
        "noise; a line that rises means that longer horizons pay.",
        f"{counted(last[0]['num_labels'], 'label')} at each horizon, from "
        f"{counted(last[0]['num_documents'], 'document')}",
    )


def _noise_line(horizons: list[int], halves: list[Row]) -> Trace:
    """Where noise alone would be: as the halves of horizons show; without them, for right standard errors."""
    if not halves:
        return reference("normal noise, right standard errors", horizons, SHARE_BY_CHANCE)
    shares = [row["share_beyond"] for row in halves]
    line_at = reference("halves of a horizon that contradict", [row["horizon"] for row in halves], shares[0])
    return {**line_at, "x": [row["horizon"] for row in halves], "y": shares}


def _share_hover(row: Row) -> str:
    return (
        f"{group_name(row)}, {row['horizon']} tokens<br>{percent(row['share_of_labels'])} of labels "
        f"({count(row['num_beyond'])} of {count(row['num_labels'])})<br>{percent(row['share_of_actions'])} "
        f"of all legal actions (weighted)<br>{counted(row['num_documents'], 'document')}"
    )


def _stability_plot(rows: list[Row], longest: int, num_labels: int) -> Plot:
    halves = sorted({row["half_horizon"] for row in rows})
    traces = []
    for scope, (name, color) in _SCOPES.items():
        found = [row for row in rows if row["scope"] == scope]
        if found:
            traces.append(
                line(
                    name,
                    [row["half_horizon"] for row in found],
                    [row["spearman"] for row in found],
                    [_stability_hover(name, row) for row in found],
                    color=color,
                    ends=(_two_stderr(found, -1), _two_stderr(found, +1)),
                )
            )
    widest = [row for row in rows if row["half_horizon"] == longest // 2]
    sizes = [
        f"{counted(row['num_labels'], 'label')} from {counted(row['num_documents'], 'document')} "
        f"({_SCOPES[row['scope']][0]})"
        for row in widest
    ]
    if any(row["scope"] == "all" and row["num_labels"] < num_labels for row in widest):
        drawn = counted(widest[0]["num_trajectories"], "trajectory")
        sizes.append(f"all of {drawn}, drawn by a hash of their ids")
    return Plot(
        "Does the order of actions last?",
        figure(
            traces,
            Axis("tokens in each stretch", is_log=True, tickvals=halves),
            Axis("Spearman correlation", from_zero=True),
            height=380,
        ),
        "How alike actions rank by value of detail over the first tokens after the cursor and over as many "
        "tokens after those: 1 is the same order, 0 no relation; bars are two standard errors over "
        "documents.",
        f"at {longest // 2} tokens, {'; '.join(sizes)}" if sizes else "no snapshot has the 4 labels it takes",
    )


def _two_stderr(rows: list[Row], sign: int) -> list[float | None]:
    return [None if row["stderr"] is None else row["spearman"] + sign * 2 * row["stderr"] for row in rows]


def _stability_hover(name: str, row: Row) -> str:
    spread = "" if row["stderr"] is None else f" ± {number(2 * row['stderr'])}"
    return (
        f"{name}, 2 × {row['half_horizon']} tokens<br>Spearman {row['spearman']:.3f}{spread}<br>"
        f"{counted(row['num_rankings'], 'ranking')} of {counted(row['num_labels'], 'label')}, "
        f"{counted(row['num_documents'], 'document')}"
    )


def _share_table(rows: list[Row]) -> Table:
    columns = [
        "Labels", "Documents", "Beyond 2 stderr", "Share of labels", "Share of legal actions",
        "Median |ΔNLL|", "Median stderr", "Newey–West",
    ]  # fmt: skip
    cells = [
        [
            group_name(row),
            count(row["num_labels"]),
            count(row["num_documents"]),
            count(row["num_beyond"]),
            percent(row["share_of_labels"]),
            percent(row["share_of_actions"]),
            number(row["median_abs_delta_nll"]),
            number(row["median_stderr"]),
            number(row["median_hac_stderr"]),
        ]
        for row in rows
    ]
    return Table(
        f"At {rows[0]['horizon']} tokens; medians in nats per token",
        ["Action and entry level", *columns],
        cells,
        numeric=frozenset(columns),
    )
