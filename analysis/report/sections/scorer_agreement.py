"""Section on scorers and their ceiling: how well each orders actions, and how far the order itself lasts."""

from collections.abc import Mapping, Sequence

from mctrace.analysis.questions.catalogue import Row
from mctrace.analysis.report.figures import (
    BLUE,
    GREY,
    ORANGE,
    PURPLE,
    Axis,
    figure,
    intervals,
    line,
    plain,
    strokes,
)
from mctrace.analysis.report.formatting import MISSING, count, counted, nats, number
from mctrace.analysis.report.page import Plot, Section, Table
from mctrace.train.evaluation.statistics import Interval, bootstrap_interval

SCOPES = {"kind": "among actions of one kind", "snapshot": "among all actions of a snapshot"}
CEILING = "a neighbouring stretch"
_BASELINES = ("recency", "attention mass")


def scorer_section(
    agreement: Sequence[Row],
    ceilings: Sequence[Row],
    judged_on: str,
    calibration: Sequence[Row] = (),
    nats_per_unit: Mapping[str, float] | None = None,
) -> Section:
    """Agreement of scorers with measured values.

    `agreement`: rows of scorer_agreement.sql; `ceilings`: those of rank_stability.sql at half the horizon;
    `judged_on`: a sentence that names the labels behind the agreement; `calibration`: rows of
    scorer_calibration.sql; `nats_per_unit`: utility scale of each scorer whose scores are values of detail.
    """
    title = "Scorers beside the ceiling"
    if not agreement:
        return Section("scorers", title, ["No snapshot has the four labels that a ranking takes."])
    names = sorted({row["scorer"] for row in agreement}, key=lambda name: (name in _BASELINES, name))
    found = {scope: _intervals(agreement, scope, names) for scope in SCOPES}
    notes = [
        f"“{CEILING.capitalize()}” is no scorer: it is how the values over the first half of the horizon "
        "order the same documents' actions by their values over the second half. No scorer sees the future, "
        "so agreement with one noisy stretch ends about there; if each stretch were a lasting value plus "
        "noise of its own, a scorer that knew the lasting value would reach the square root of it."
        + _read_on(ceilings),
        "The order is compared with that by value of detail. A net trained on the literal target asks for "
        "the costliest collapses first, so among collapses it comes out below zero by design.",
    ]
    if "attention mass" not in names:
        notes.append(
            "Attention mass was not kept: collect with collect.attention_mass = true to see it here."
        )
    return Section(
        "scorers",
        title,
        [
            "Spearman's correlation between a scorer's order of actions and the order by measured value of "
            f"detail: 1 is the same order, 0 no relation. {judged_on}"
        ],
        plots=[
            *(_plot(scope, found[scope], _ceiling(ceilings, scope), agreement) for scope in SCOPES),
            *(
                _calibration_plot(scorer, scale, [row for row in calibration if row["scorer"] == scorer])
                for scorer, scale in (nats_per_unit or {}).items()
            ),
        ],
        tables=[_table(found, ceilings)],
        notes=notes,
    )


def _calibration_plot(scorer: str, scale: float, rows: Sequence[Row]) -> Plot:
    """Mean measured value of each tenth of a scorer's labels, against its mean score in nats per token."""
    scores = [scale * row["mean_score"] for row in rows]
    values = [row["mean_value"] for row in rows]
    ends = [
        (None, None) if row["value_stderr"] is None
        else (row["mean_value"] - 2 * row["value_stderr"], row["mean_value"] + 2 * row["value_stderr"])
        for row in rows
    ]  # fmt: skip
    hover = [
        f"tenth {row['tenth']}<br>mean score {nats(score)}<br>mean measured value {nats(row['mean_value'])}"
        + ("" if low is None else f"<br>interval {nats(low)} to {nats(high)}")
        + f"<br>{counted(row['num_labels'], 'label')}, {counted(row['num_documents'], 'document')}"
        for row, score, (low, high) in zip(rows, scores, ends, strict=True)
    ]
    span = [min(scores), max(scores)] if scores else []
    return Plot(
        f"Calibration of {scorer}",
        figure(
            [
                line(
                    scorer,
                    scores,
                    values,
                    hover,
                    color=BLUE,
                    ends=([low for low, _ in ends], [high for _, high in ends]),
                ),
                line("score equals value", span, span, [""] * len(span), color=GREY, style=1, markers=False),
            ],
            Axis("mean score, nats per token"),
            Axis("mean measured value, nats per token"),
            height=380,
        ),
        "Each dot is a tenth of the labels, the lowest scores first. On the dashed line scores are what "
        "edits turn out to be worth; a flatter line means that the net claims more difference than there "
        "is. Bars are two standard errors over documents.",
        f"{counted(sum(row['num_labels'] for row in rows), 'label')}, at most "
        f"{counted(max((row['num_documents'] for row in rows), default=0), 'document')} a tenth",
    )


def _intervals(agreement: Sequence[Row], scope: str, names: Sequence[str]) -> dict[str, Interval]:
    documents: dict[str, dict[str, float]] = {}
    for row in agreement:
        if row["scope"] == scope:
            documents.setdefault(row["scorer"], {})[row["document_id"]] = row["spearman"]
    return {name: bootstrap_interval(documents[name], seed=0) for name in names if name in documents}


def _read_on(ceilings: Sequence[Row]) -> str:
    if not ceilings:
        return ""
    most, drawn = max(row["num_labels"] for row in ceilings), ceilings[0]["num_trajectories"]
    return f" Here it is read on {counted(most, 'label')} of {counted(drawn, 'trajectory')}."


def _ceiling(ceilings: Sequence[Row], scope: str) -> Row | None:
    return next((row for row in ceilings if row["scope"] == scope), None)


def _plot(scope: str, found: Mapping[str, Interval], ceiling: Row | None, agreement: Sequence[Row]) -> Plot:
    names = list(found)
    hover = [
        f"{plain(name)}<br>Spearman {number(one.mean)}<br>interval {number(one.low)} to "
        f"{number(one.high)}<br>{counted(one.num_documents, 'document')}"
        for name, one in found.items()
    ]
    colors = [GREY if name in _BASELINES else (BLUE, ORANGE, PURPLE)[i % 3] for i, name in enumerate(names)]
    middle = [one.mean for one in found.values()]
    ends = [one.low for one in found.values()], [one.high for one in found.values()]
    traces = [intervals("scorers", names, middle, ends, hover, colors=colors)]
    if ceiling:
        said = f"{CEILING}<br>Spearman {ceiling['spearman']:.3f}<br>{counted(ceiling['num_labels'], 'label')}"
        traces.append(strokes(CEILING, [CEILING], [ceiling["spearman"]], [said]))
    num_labels = max(
        (
            sum(r["num_labels"] for r in agreement if (r["scope"], r["scorer"]) == (scope, name))
            for name in names
        ),
        default=0,
    )
    num_documents = max((one.num_documents for one in found.values()), default=0)
    return Plot(
        f"Agreement with measured value, {SCOPES[scope]}",
        figure(
            traces,
            Axis("Spearman correlation"),
            Axis("", top_down=True),
            height=140 + 36 * (len(names) + 1),
            legend=False,
        ),
        "Dots are means over documents, bars 95% intervals from resampling them; the stroke is the ceiling.",
        f"{counted(num_labels, 'label')}, {counted(num_documents, 'document')}",
    )


def _table(found: Mapping[str, Mapping[str, Interval]], ceilings: Sequence[Row]) -> Table:
    columns = ["Spearman", "Interval", "Documents"]
    cells = [
        [
            SCOPES[scope],
            name,
            number(one.mean),
            f"{number(one.low)} to {number(one.high)}",
            count(one.num_documents),
        ]
        for scope, by_name in found.items()
        for name, one in by_name.items()
    ]
    cells += [
        [SCOPES[row["scope"]], CEILING, number(row["spearman"]), MISSING, count(row["num_documents"])]
        for row in ceilings
        if row["scope"] in SCOPES
    ]
    return Table(
        "Spearman correlation with value of detail, mean over documents",
        ["Order", "Scorer", *columns],
        cells,
        numeric=frozenset(columns),
    )
