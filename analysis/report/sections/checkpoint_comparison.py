"""Section that compares two checkpoints on the same labels: score by score, paired by document."""

from collections.abc import Mapping, Sequence

from mctrace.analysis.questions.catalogue import Row
from mctrace.analysis.report.figures import BLUE, ORANGE, Axis, figure, line, plain, points
from mctrace.analysis.report.formatting import MISSING, count, counted, group_name, nats, number, text
from mctrace.analysis.report.page import Plot, Section, Table
from mctrace.analysis.report.run_results import TrainingCurves, read_training_curves
from mctrace.analysis.report.sections.scorer_agreement import SCOPES
from mctrace.analysis.snapshots.scoring import NamedCheckpoint
from mctrace.analysis.snapshots.view import SnapshotView
from mctrace.train.evaluation.statistics import bootstrap_interval

_CURVES = {
    "loss": "Lower is better; targets that differ make losses that do not compare.",
    "ranking_accuracy": "The share of pairs of actions put in the right order: half is chance, 1 is perfect.",
    "utility_correlation": "How scores follow their targets: 1 is a straight line, 0 no relation.",
}
_COLORS = (BLUE, ORANGE)
_MOST_POINTS = 3000


def checkpoint_section(
    first: NamedCheckpoint,
    second: NamedCheckpoint,
    agreement: Sequence[Row],
    snapshots: Sequence[SnapshotView],
    judged_on: str,
) -> Section:
    """`agreement` has the rows of scorer_agreement.sql, `snapshots` both checkpoints' scores."""
    notes = []
    if first.info.target != second.info.target:
        notes.append(
            f"The two learned different targets ({first.info.target} and {second.info.target}): what each "
            "asks of a collapse differs by design, so compare them on expands, or in closed loop."
        )
    if _dataset(first) != _dataset(second):
        notes.append("The two were trained on different versions of the data.")
    return Section(
        "checkpoints",
        f"{first.name} and {second.name}",
        [
            f"Both scored the same snapshots. {judged_on} A difference is taken within each document before "
            "it is averaged, so what makes a document hard for both does not blur it; the interval comes "
            "from resampling documents. If it spans zero, these documents do not "
            "separate the two."
        ],
        plots=[*_score_plots(first, second, snapshots), *_curve_plots(first, second)],
        tables=[_difference_table(first, second, agreement), _description_table(first, second)],
        notes=notes,
    )


def paired_differences(agreement: Sequence[Row], scope: str, first: str, second: str) -> dict[str, float]:
    """Spearman correlation of `first` less that of `second` by document, where both have one."""
    by_scorer: dict[str, dict[str, float]] = {first: {}, second: {}}
    for row in agreement:
        if row["scope"] == scope and row["scorer"] in by_scorer:
            by_scorer[row["scorer"]][row["document_id"]] = row["spearman"]
    shared = by_scorer[first].keys() & by_scorer[second].keys()
    return {document: by_scorer[first][document] - by_scorer[second][document] for document in shared}


def _difference_table(first: NamedCheckpoint, second: NamedCheckpoint, agreement: Sequence[Row]) -> Table:
    columns = ["Difference", "Interval", "Documents", "First is ahead in"]
    cells = []
    for scope, name in SCOPES.items():
        found = paired_differences(agreement, scope, first.name, second.name)
        if not found:
            cells.append([name, MISSING, MISSING, "0", MISSING])
            continue
        interval = bootstrap_interval(found, seed=0)
        ahead = sum(value > 0 for value in found.values())
        cells.append(
            [
                name,
                nats(interval.mean),
                f"{nats(interval.low)} to {nats(interval.high)}",
                count(interval.num_documents),
                f"{ahead} of {interval.num_documents}",
            ]
        )
    return Table(
        f"Spearman with value of detail: {first.name} less {second.name}",
        ["Order", *columns],
        cells,
        numeric=frozenset(columns),
    )


def _score_plots(
    first: NamedCheckpoint, second: NamedCheckpoint, snapshots: Sequence[SnapshotView]
) -> list[Plot]:
    """Score against measured value of both checkpoints, one plot for each kind of action."""
    kinds = sorted(
        {(a.action.kind, a.action.entry_level) for s in snapshots for a in s.actions if a.measured}
    )
    kinds.sort(key=lambda kind: kind[0] == "collapse")
    return [plot for kind, level in kinds if (plot := _score_plot(kind, level, (first, second), snapshots))]


def _score_plot(
    kind: str, level: int, scorers: tuple[NamedCheckpoint, NamedCheckpoint], snapshots: Sequence[SnapshotView]
) -> Plot | None:
    found = [
        (snapshot, action)
        for snapshot in snapshots
        for action in snapshot.actions
        if action.measured and (action.action.kind, action.action.entry_level) == (kind, level)
    ]
    name = group_name({"action": kind, "entry_level": level})
    stride = -(-len(found) // _MOST_POINTS) if found else 1
    shown = found[::stride]
    traces = []
    for scorer, color in zip(scorers, _COLORS, strict=True):
        values = [(a.measured.value_of_detail, a.scores[scorer.name], s, a) for s, a in shown if a.measured]
        traces.append(
            points(
                scorer.name,
                [value for value, *_ in values],
                [score for _, score, *_ in values],
                [
                    f"{plain(scorer.name)}: {number(score)}<br>value of detail {nats(value)}<br>"
                    f"{plain(s.source)}, node {a.action.node.level}:{a.action.node.index}"
                    for value, score, s, a in values
                ],
                color=color,
            )
        )
    return Plot(
        f"Score against measured value: {name}",
        figure(traces, Axis("value of detail, nats per token"), Axis("score, score units"), height=320),
        "Each dot is one measured action: a cloud that rises to the right is a scorer that sees value.",
        counted(len(shown), "action") + (f" of {count(len(found))}" if stride > 1 else ""),
    )


def _curve_plots(first: NamedCheckpoint, second: NamedCheckpoint) -> list[Plot]:
    curves: dict[str, TrainingCurves] = {}
    for scorer in (first, second):
        found = read_training_curves(scorer.folder.parent)
        if found:
            curves[scorer.name] = found
    if len(curves) < 2:
        return []
    return [plot for metric, reading in _CURVES.items() if (plot := _curve_plot(metric, reading, curves))]


def _curve_plot(metric: str, reading: str, curves: Mapping[str, TrainingCurves]) -> Plot | None:
    traces, sizes = [], []
    for (name, found), color in zip(curves.items(), _COLORS, strict=True):
        curve = found.curves.get(metric, {}).get("validation", [])
        if not curve:
            return None
        traces.append(
            line(
                name,
                [step for step, _ in curve],
                [value for _, value in curve],
                [f"{plain(name)}, step {count(step)}<br>{metric} {number(value)}" for step, value in curve],
                color=color,
            )
        )
        sizes.append(f"{name}: {counted(len(curve), 'point')}")
    return Plot(
        f"Validation {metric}", figure(traces, Axis("step"), Axis(""), height=260), reading, "; ".join(sizes)
    )


def _description_table(first: NamedCheckpoint, second: NamedCheckpoint) -> Table:
    def rows(scorer: NamedCheckpoint) -> list[str]:
        info = scorer.info
        return [
            str(scorer.folder),
            info.network.name,
            count(sum(p.numel() for p in scorer.network.parameters())),
            text(info.target),
            f"{info.utility_scale:.4g}",
            count(info.step),
            _dataset(scorer),
        ]

    names = ["Folder", "Network", "Parameters", "Target", "Nats per score unit", "Step", "Data"]
    cells = [list(row) for row in zip(names, rows(first), rows(second), strict=True)]
    return Table("The two checkpoints", ["", first.name, second.name], cells)


def _dataset(scorer: NamedCheckpoint) -> str:
    dataset, derived = scorer.info.dataset, scorer.info.derived_dataset
    through = f", dataset {derived}" if derived else ""
    return f"{text(dataset.get('uri'))} at version {text(dataset.get('version'))}{through}"
