"""Page and plot of the labels benchmark: results/labels.json to LABELS.md; without results it says so."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

HERE = Path(__file__).parent
RESULT, PLOT = HERE / "results" / "labels.json", "results/labels.svg"
Row = dict[str, Any]
_INTRO = """# What a label-hour buys

Written by `python -m benchmarks.labels_page` from `results/labels.json`, which `make bench-labels` writes;
do not edit.

SmolLM2-135M on sources of the standard library, the shipped gists, collapses of unprotected blocks of N
level-0 tokens, R cursors 32 tokens apart, a horizon of 128 tokens. Costs are processor seconds of one
process, all ways in turn on the same context, scaled from the sampled actions to all by planned FLOPs.
"""
_FIDELITY = """## Cost and fidelity

Against exact labels of a seeded sample of each context's actions: within each document, averaged by numbers
of actions, and pooled. "Top tenth" is the share of the exact top tenth that is in the estimate's own; for
`screened`, which measures a quarter exactly, the share that its sample holds in expectation.
"""
_EQUAL = """## At equal compute

The same LensNet on what each estimator buys for {budget:,.0f} processor seconds, actions for calibration
included: ranking accuracy on held-out documents by exact labels, mean over {seeds} seeds, with 95%
intervals over documents.
"""
_FLOOR = """## What is left for exact labels at one cursor

By planned work, without a model. "Naive over exact" is the most that exact labels can save at the same
speed of arithmetic: what follows an edit is half of a context on average, and reads all that is before. The
other columns bound what any further sharing gains: the baseline pass, entries recomputed only because rows
of a batch begin together, and, for recency's map and seeded random ones on one document with the same start
and cursor, what two of them compute alike (mean and largest pair). Two maps agree only up to the first
entry in which they differ, and every later entry depends on that one; two cursors of one map share
everything already, which is R > 1.
"""


def page(result: Row | None) -> str:
    """The whole page as Markdown."""
    if result is None:
        return f"{_INTRO}\n**There are no results yet.**\n"
    machine = result["machine"]
    parts = [f"{_INTRO}\n{machine['device']}, {machine['threads']} threads, torch {machine['torch']}.\n"]
    if rows := result.get("estimators"):
        parts += [_FIDELITY, f"![fidelity against cost]({PLOT})\n", _table(_estimators(rows))]
    if rows := result.get("equal_compute"):
        about = {"budget": result["budget_seconds"], "seeds": result["setting"]["seeds"]}
        parts += [_EQUAL.format(**about), _table(_equal(rows))]
        if result["differences"]:
            parts += [
                "Better than exact labels by, paired by document:\n",
                _table(_gaps(result["differences"])),
            ]
        parts += [f"Left out, since the budget does not pay for it: {name}.\n" for name in result["left_out"]]
    if rows := result.get("exact_floor"):
        parts += [_FLOOR, _table(_floors(rows))]
    return "\n".join(parts)


def _estimators(rows: Sequence[Row]) -> Iterator[list[str]]:
    yield [
        "N", "R", "estimator", "cost over exact", "Spearman", "lowest to highest", "Pearson",
        "pooled Spearman", "pooled Pearson", "same sign", "top tenth", "top tenth per cost", "actions",
        "documents",
    ]  # fmt: skip
    for row in rows:
        low_high = row["spearman_range"]
        yield [
            f"{row['N']:,}", str(row["R"]), row["estimator"], f"{row['cost_over_exact']:.3g}",
            _number(row["spearman"]), " to ".join(map(_number, low_high)) if low_high else "-",
            *(_number(row[key]) for key in (
                "pearson", "pooled_spearman", "pooled_pearson", "sign_agreement", "top_tenth_recall",
                "top_tenth_per_exact_cost",
            )),
            str(row["num_actions"]), str(row["num_documents"]),
        ]  # fmt: skip


def _equal(rows: Sequence[Row]) -> Iterator[list[str]]:
    yield ["labels", "ranking accuracy", "documents bought", "labels", "held-out documents"]
    for row in rows:
        yield [
            row["estimator"], f"{row['ranking_accuracy']:.3f} [{row['low']:.3f}, {row['high']:.3f}]",
            f"{row['num_documents']:,}", f"{row['num_labels']:,}", str(row["num_held_out"]),
        ]  # fmt: skip


def _gaps(rows: Sequence[Row]) -> Iterator[list[str]]:
    yield ["labels", "ranking accuracy"]
    for row in rows:
        yield [row["estimator"], f"{row['mean']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"]


def _floors(rows: Sequence[Row]) -> Iterator[list[str]]:
    yield ["N", "actions", "naive over exact", "baseline", "batching", "two policies", "at most"]
    for row in rows:
        yield [
            f"{row['N']:,}", str(row["num_actions"]), f"{row['naive_over_exact_work']:.2f}",
            *(f"{row[key]:.1%}" for key in (
                "baseline_share", "padding_share", "shared_by_policies", "shared_by_policies_at_most",
            )),
        ]  # fmt: skip


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _table(rows: Iterator[list[str]]) -> str:
    header, *body = rows
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def plot(rows: Sequence[Row]) -> Figure:
    """Rank correlation with exact labels against cost, a line per case."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    cases = sorted({(row["N"], row["R"]) for row in rows})
    for case in cases:
        mine = sorted(
            (row for row in rows if (row["N"], row["R"]) == case and row["spearman"] is not None),
            key=lambda row: row["cost_over_exact"],
        )
        costs = [row["cost_over_exact"] for row in mine]
        axes.plot(
            costs, [row["spearman"] for row in mine], "o", markersize=4, label=f"N {case[0]}, R {case[1]}"
        )
        for row in mine:
            place = (row["cost_over_exact"], row["spearman"])
            axes.annotate(row["estimator"], place, fontsize=7, xytext=(4, 3), textcoords="offset points")
    axes.set_xscale("log")
    axes.set_xlabel("cost over exact")
    axes.set_ylabel("Spearman with exact labels")
    axes.legend(fontsize=8, frameon=False)
    return figure


def main() -> None:
    result = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else None
    if result and result.get("estimators"):
        mpl.rcParams["svg.hashsalt"] = "mctrace"  # the same data, the same file
        plot(result["estimators"]).savefig(HERE / PLOT, metadata={"Date": None})
    (HERE / "LABELS.md").write_text(page(result), encoding="utf-8")


if __name__ == "__main__":
    main()
