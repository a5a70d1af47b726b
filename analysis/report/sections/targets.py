"""Section on literal and priced targets: the utilities that each derives from the same labels."""

import duckdb

from mctrace.analysis.questions.catalogue import Row, run_analysis
from mctrace.analysis.report.figures import GREEN, PURPLE, Axis, bars, figure, line
from mctrace.analysis.report.formatting import count, counted, group_name, nats, number, percent
from mctrace.analysis.report.page import Plot, Section, Table
from mctrace.analysis.report.sections.store import NO_LABELS
from mctrace.analysis.report.sections.value_of_detail import bin_name, bin_span, bin_width

_COLORS = {"literal": PURPLE, "priced": GREEN}


def target_section(connection: duckdb.DuckDBPyConnection) -> Section:
    """Comparison of the targets that ship."""
    title = "Literal against priced targets"
    utilities = run_analysis(connection, "target_utilities")
    if not utilities:
        return Section("targets", title, [NO_LABELS])
    bins = run_analysis(connection, "target_histogram")
    prices = run_analysis(connection, "shadow_prices")
    by_cursor = [
        row for row in run_analysis(connection, "shadow_prices_over_time") if row["mean"] is not None
    ]
    actions = list(dict.fromkeys(row["action"] for row in utilities))
    return Section(
        "targets",
        title,
        [
            "A target is the utility that a loss is given, and a choice: both are computed from the same "
            "labels. The literal one is what an expand gains, max(0, −ΔNLL), and minus what a collapse "
            "costs, −max(0, ΔNLL), so that the collapse that hurts most gets the lowest score of all. The "
            "priced one is the value of detail less what its positions cost in that snapshot, clipped to "
            "the sign of the action, so that cheap collapses get the lowest scores.",
            "This does not show which of them trains the better controller; that takes closed-loop "
            "evaluation.",
        ],
        plots=[
            *(_utility_plot(action, utilities, bins) for action in actions),
            *([_price_plot(prices)] if prices else []),
            *([_price_by_cursor_plot(by_cursor)] if by_cursor else []),
        ],
        tables=[
            _utility_table(utilities),
            _agreement_table(run_analysis(connection, "literal_against_priced")),
        ],
        notes=_notes(utilities),
    )


def _utility_plot(action: str, utilities: list[Row], bins: list[Row]) -> Plot:
    of_action = [row for row in bins if row["action"] == action]
    traces = []
    sizes = []
    for target, color in _COLORS.items():
        found = [row for row in of_action if row["target"] == target]
        groups = [row for row in utilities if (row["target"], row["action"]) == (target, action)]
        num_labels = sum(row["num_labels"] - row["num_without_utility"] for row in groups)
        num_nonzero = sum(row["num_labels"] for row in found)
        sizes.append(f"{target}: {counted(num_labels, 'label')}, {count(num_nonzero)} of them not zero")
        traces.append(
            bars(
                target,
                [row["bin_centre"] for row in found],
                [row["share"] for row in found],
                bin_width(bins),
                [
                    f"{target}: {bin_name(row)}<br>{percent(row['share'])} of legal {action}s<br>"
                    f"{counted(row['num_labels'], 'label')}"
                    for row in found
                ],
                color=color,
                opacity=0.6,
            )
        )
    return Plot(
        f"Utilities other than zero: {action}",
        figure(
            traces,
            Axis("utility, nats per token", span=bin_span(of_action)),
            Axis(f"share of {action}s", tickformat=".2~%", from_zero=True),
            height=300,
        ),
        f"Each bar is the share of legal {action}s whose utility lies there; utilities of exactly zero are "
        "left out of the bars, and the outermost bars gather everything beyond.",
        "; ".join(sizes),
    )


def _price_plot(rows: list[Row]) -> Plot:
    prices = [row["edit_price"] for row in rows]
    shares = [row["percent"] / 100 for row in rows]
    num_priced = rows[0]["num_snapshots"] - rows[0]["num_without_price"]
    return Plot(
        "The price of an edit",
        figure(
            [
                line(
                    "priced",
                    prices,
                    shares,
                    [f"{row['percent']}% of snapshots: at most {nats(row['edit_price'])}" for row in rows],
                    color=GREEN,
                )
            ],
            Axis("price of one edit, nats per token"),
            Axis("share of snapshots", tickformat=".2~%", span=(-0.03, 1.03)),
            height=300,
            legend=False,
        ),
        "The share of snapshots whose price of an edit is at most that: an expand is worth making above "
        "the price, a collapse below it.",
        f"{counted(num_priced, 'snapshot')}, {count(rows[0]['num_zero'])} of them with a price of zero",
    )


def _price_by_cursor_plot(rows: list[Row]) -> Plot:
    trace = line(
        "median and middle half",
        [(row["cursor_from"] + row["cursor_to"]) / 2 for row in rows],
        [row["p50"] for row in rows],
        [
            f"cursors {count(row['cursor_from'])} to {count(row['cursor_to'])}<br>"
            f"median {nats(row['p50'])}, mean {nats(row['mean'])}<br>{percent(row['share_free'])} free<br>"
            f"{counted(row['num_snapshots'], 'snapshot')} of {row['mean_num_entries']:.0f} positions"
            for row in rows
        ],
        color=GREEN,
        ends=([row["p25"] for row in rows], [row["p75"] for row in rows]),
    )
    return Plot(
        "The price of an edit along a document",
        figure(
            [trace],
            Axis("cursor, tokens"),
            Axis("price of one edit, nats per token", from_zero=True),
            height=300,
            legend=False,
        ),
        "Dots are the medians of snapshots at cursors around there, bars their middle half: a rising price "
        "means that contexts fill up with what matters.",
        counted(sum(row["num_snapshots"] for row in rows), "snapshot"),
    )


def _agreement_table(rows: list[Row]) -> Table:
    columns = [
        "Labels", "Zero in literal", "Zero in priced", "Only literal", "Only priced", "Spearman", "Rankings",
    ]  # fmt: skip
    cells = [
        [
            row["action"],
            count(row["num_labels"]),
            percent(row["share_zero_literal"]),
            percent(row["share_zero_priced"]),
            percent(row["share_only_literal"]),
            percent(row["share_only_priced"]),
            number(row["spearman"]),
            count(row["num_rankings"]),
        ]
        for row in rows
    ]
    return Table(
        "How far the two agree: labels each moves from zero, and their order within a snapshot",
        ["Action", *columns],
        cells,
        numeric=frozenset(columns),
    )


def _utility_table(rows: list[Row]) -> Table:
    columns = ["Labels", "No price", "Share zero", "Mean", "5%", "Median", "95%"]
    cells = [
        [
            row["target"],
            group_name(row),
            count(row["num_labels"]),
            count(row["num_without_utility"]),
            percent(row["share_zero"]),
            *(nats(row[column]) for column in ("mean", "p05", "p50", "p95")),
        ]
        for row in rows
    ]
    return Table(
        "Utilities, nats per token, over all legal actions",
        ["Target", "Action and entry level", *columns],
        cells,
        numeric=frozenset(columns),
    )


def _notes(utilities: list[Row]) -> list[str]:
    notes = [
        "A shadow price is found from the actions that were sampled, each standing for several: with few "
        "of them in a snapshot it is a rough guess, and so is every priced utility of that snapshot."
    ]
    num_without = sum(row["num_without_utility"] for row in utilities if row["target"] == "priced")
    if num_without:
        notes.append(
            "Without a priced utility, because no price balances the budget of their snapshot: "
            f"{counted(num_without, 'label')}."
        )
    return notes
