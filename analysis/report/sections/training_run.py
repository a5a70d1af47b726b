"""Sections on a training run: its curves and its held-out evaluation."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mctrace.analysis.report.figures import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    Axis,
    figure,
    intervals,
    line,
    plain,
)
from mctrace.analysis.report.formatting import MISSING, count, counted, number, text
from mctrace.analysis.report.page import Plot, Section, Table
from mctrace.analysis.report.run_results import Curve, Score, read_held_out, read_training_curves
from mctrace.train.run_files import EVALUATION_FILE, METRICS_FILE

MOST_POINTS = 1000
"""of one curve; longer ones are thinned evenly"""

_READINGS = {
    "loss": "Lower is better; a validation line that turns up while training goes on down is overfitting.",
    "ranking_accuracy": "The share of pairs of actions put in the right order: half is chance, 1 is perfect.",
    "utility_correlation": "How scores follow targets: 1 is a straight line, 0 no relation.",
    "mse": "The mean square distance of score and target: lower is better, and 0 is perfect.",
    "budget_balance": "0: expands and collapses of a snapshot ask for equal room; 1: all ask one way.",
    "legality_compliance": "The share of entries whose score, before masking, asks for no illegal edit.",
    "L_reg": "The regression part of the loss: lower is better.",
    "L_rank": "The ranking part of the loss: lower is better.",
    "L_budget": "The budget part of the loss: lower is better; always 0 for the target value.",
    "L_illegal": "The illegality part of the loss: lower is better; always 0 for the target value.",
    "score_delta_nll_expand": "Score against ΔNLL over expands: below zero is right.",
    "score_delta_nll_collapse": "Score against ΔNLL over collapses: above zero is right for value and "
    "priced, below zero for literal.",
    "grad_norm": "The size of the gradient before clipping: spikes and steady growth are bad signs.",
    "lr": "The learning rate: a rise, then a slow fall.",
    "steps_per_s": "Training speed: higher is faster.",
}
_MAIN = ("loss", "ranking_accuracy", "utility_correlation", "budget_balance")
_SPLIT_COLORS = {"train": BLUE, "validation": ORANGE}


def training_section(run: Path | None) -> Section:
    """Training curves of the run in folder `run`, or a sentence that says why there are none."""
    title = "Training curves"
    if run is None:
        return Section("training", title, ["No training run was given: add one with --run FOLDER."])
    training = read_training_curves(run)
    if training is None:
        return Section("training", title, [f"The run folder {run} has no {METRICS_FILE}."])
    if not training.curves:
        return Section("training", title, [f"{run / METRICS_FILE} has no numbers in it yet."])
    names = _ordered(list(training.curves))
    plots = {name: _curve_plot(name, training.curves[name]) for name in names}
    notes = []
    if training.num_unreadable:
        notes.append(f"Left out of {METRICS_FILE}, unreadable: {counted(training.num_unreadable, 'line')}.")
    main = [name for name in names if name in _MAIN] or names[:4]
    return Section(
        "training",
        title,
        [f"{run}, up to step {count(training.last_step)}."],
        plots=[plots[name] for name in main],
        folded_plots=[plots[name] for name in names if name not in main],
        notes=notes,
    )


def evaluation_section(run: Path | None) -> Section:
    """Held-out scores in folder `run`, or a sentence that says why there are none."""
    title = "Held-out evaluation"
    if run is None:
        return Section("evaluation", title, ["No training run was given: add one with --run FOLDER."])
    held_out = read_held_out(run)
    if held_out is None:
        return Section("evaluation", title, [f"The run folder {run} has no {EVALUATION_FILE}."])
    if not held_out.scores:
        return Section("evaluation", title, [f"{run / EVALUATION_FILE} has no scores that can be read."])
    metrics = _ordered(list(dict.fromkeys(score.metric for score in held_out.scores)))
    by_metric = {metric: [score for score in held_out.scores if score.metric == metric] for metric in metrics}
    plots = [_score_plot(metric, scores) for metric, scores in by_metric.items()]
    notes = []
    if held_out.num_unreadable:
        notes.append(f"Left out, without a number: {counted(held_out.num_unreadable, 'score')}.")
    return Section(
        "evaluation",
        title,
        [
            f"Checkpoints: {', '.join(held_out.checkpoints) or MISSING}; split: {text(held_out.split)}; "
            f"target: {text(held_out.target)}; snapshots: {count(held_out.num_snapshots)}. Each number is a "
            "mean over documents, and its interval, where there is one, comes from resampling documents.",
            "Agreement with held-out labels is a first check and not the goal: better working contexts are, "
            "and only closed-loop evaluation measures them. Noisy labels keep every scorer's agreement low, "
            "a perfect one's too: see Signal against noise. The intervals are each scorer's own; to decide "
            "whether two scorers differ takes a comparison paired by document, as in a report on two "
            "checkpoints.",
        ],
        plots=plots[:4],
        folded_plots=plots[4:],
        tables=[_score_table([score for scores in by_metric.values() for score in scores])],
        notes=notes,
    )


def _ordered(metrics: Sequence[str]) -> list[str]:
    """Metrics with a reading first, in the order of the readings; the rest by name."""
    known = list(_READINGS)
    return sorted(metrics, key=lambda name: (known.index(name) if name in known else len(known), name))


def _curve_plot(name: str, curves: Mapping[str, Curve]) -> Plot:
    others = (GREEN, PURPLE)
    traces = []
    for number_of, (split, curve) in enumerate(curves.items()):
        shown = _thin(curve)
        traces.append(
            line(
                split,
                [step for step, _ in shown],
                [value for _, value in shown],
                [
                    f"{plain(split)}, step {count(step)}<br>{plain(name)} {number(value)}"
                    for step, value in shown
                ],
                color=_SPLIT_COLORS.get(split, others[number_of % len(others)]),
                markers=len(shown) <= 40,
            )
        )
    sizes = [f"{count(len(curve))} {split}" for split, curve in curves.items()]
    thinned = any(len(curve) > MOST_POINTS for curve in curves.values())
    return Plot(
        name,
        figure(traces, Axis("step"), Axis(""), height=260),
        _READINGS.get(name, "The number that the run reported, step by step."),
        f"{' and '.join(sizes)} points"
        + (f", thinned to at most {count(MOST_POINTS)} a line" if thinned else ""),
    )


def _thin(curve: Curve) -> Curve:
    """Every k-th point and the last one, at most MOST_POINTS."""
    if len(curve) <= MOST_POINTS:
        return curve
    stride = -(-len(curve) // (MOST_POINTS - 1))
    kept = curve[::stride]
    return kept if kept[-1] == curve[-1] else [*kept, curve[-1]]


def _score_plot(metric: str, scores: list[Score]) -> Plot:
    names = [score.scorer for score in scores]
    hover = [
        f"{plain(score.scorer)}<br>{plain(metric)} {number(score.mean)}<br>interval {_interval(score)}<br>"
        f"documents: {count(score.num_documents)}"
        for score in scores
    ]
    trace = intervals(
        metric,
        names,
        [score.mean for score in scores],
        ([score.low for score in scores], [score.high for score in scores]),
        hover,
        colors=[BLUE] * len(scores),
    )
    num_documents = sorted({score.num_documents for score in scores if score.num_documents is not None})
    return Plot(
        metric,
        figure([trace], Axis(""), Axis("", top_down=True), height=110 + 34 * len(scores), legend=False),
        _READINGS.get(metric, "Each dot is a scorer's mean over documents, and the bar its interval."),
        " to ".join(dict.fromkeys((count(num_documents[0]), count(num_documents[-1])))) + " documents"
        if num_documents
        else "not given by the evaluation",
    )


def _score_table(scores: list[Score]) -> Table:
    numeric = ["Mean", "Interval", "Documents"]
    cells = [
        [score.metric, score.scorer, number(score.mean), _interval(score), count(score.num_documents)]
        for score in scores
    ]
    return Table("Means over documents", ["Metric", "Scorer", *numeric], cells, frozenset(numeric))


def _interval(score: Score) -> str:
    if score.low is None or score.high is None:
        return MISSING
    return f"{number(score.low)} to {number(score.high)}"
