"""Evaluations of checkpoints on held-out labels, as a table in a terminal."""

from rich.console import Console
from rich.table import Table

from mctrace.cli.display.tables import interval_cell, print_table
from mctrace.train.checkpoint_evaluation import CheckpointEvaluation

_METRICS = (
    "ranking_accuracy", "utility_correlation", "kendall_tau", "mse", "budget_balance",
    "legality_compliance", "preference_corr", "preference_agreement",
)  # fmt: skip

_ENOUGH_DOCUMENTS = 6
"""with fewer, a percentile bootstrap is visibly narrower than the uncertainty"""


def print_mixture(evaluation: CheckpointEvaluation) -> None:
    """Print on standard error the kinds of labels, where they are several; the answer lists them too."""
    if len(evaluation.kinds) > 1:
        Console(stderr=True, soft_wrap=True).print(
            f"judged on a mixture, as it was learned from: {'; '.join(map(str, evaluation.kinds))}",
            markup=False,
            highlight=False,
        )


def print_evaluation(evaluation: CheckpointEvaluation, console: Console) -> None:
    """Print a row of metrics for each scorer."""
    intervals, answer = evaluation.intervals, evaluation.answer
    metrics = [metric for metric in _METRICS if any(metric in found for found in intervals.values())]
    num_documents = max(i.num_documents for found in intervals.values() for i in found.values())
    few = ", too narrow with so few" if num_documents < _ENOUGH_DOCUMENTS else ""
    table = Table(
        title=f"{answer['split']} split, target {answer['target']}: {answer['num_snapshots']} snapshots of "
        f"{num_documents} documents; mean over documents and 95% bootstrap interval{few}"
    )
    table.add_column("scorer")
    for metric in metrics:
        table.add_column(metric, justify="right")
    for name, found in intervals.items():
        table.add_row(name, *(interval_cell(found.get(metric)) for metric in metrics))
    print_table(table, console)
