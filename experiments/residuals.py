"""`make residuals`: squares, a Huber loss or clipped squares for labels with heavy tails?

Protocol, written before the first run.

*Labels*: those of `make absent` at the scale `small`. Documents of the test split are never trained on.

*Runs*: the default network under the small preset with the closed loop's regularisation, on the target
`value`; each residual of the regression term with each seed of `learned_price.SEEDS`, the same labels, steps
and batches. Squares are the runs of `make learned-price`.

*Compared*, paired by document, a document's value being the mean over seeds, with 95% bootstrap intervals
over documents: agreement with held-out values of detail, and the gain of one refocus by those labels
(`learned_price`). Squared errors are shown and decide nothing, since squares are trained on them.

*Decision*: a residual replaces squares as the default if the interval of its `utility_correlation` or of its
`ranking_accuracy`, less that of squares, lies above 0, that of the other is not below -0.02 at its lower end,
and its mean gain of one refocus is not below that of squares by more than a tenth. Otherwise squares stay.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

from experiments.learned_price import (
    SCALES,
    SEARCHED,
    SEEDS,
    PerDocument,
    Scale,
    agreement,
    count_labels,
    intervals,
    less,
    options,
    planned_run,
    refocus_gains,
    train,
)
from experiments.result_files import RESULTS, machine, write_results
from experiments.train_compare import Combination
from mctrace.datasets.batches.label_reader import open_training_data
from mctrace.datasets.store.store import open_store
from mctrace.train.objectives.config import ObjectiveConfig, Residual

RESULT = RESULTS / "residuals.json"
SQUARES = "squares"
DECIDING = ("utility_correlation", "ranking_accuracy")


def planned_runs(scale: Scale) -> dict[str, list[Combination]]:
    """A run for each residual and seed, by residual."""
    return {
        residual: [
            planned_run(
                scale, SEARCHED if residual == SQUARES else f"{SEARCHED}, {residual}", SEARCHED, seed,
                objective=replace(ObjectiveConfig(), residual=residual),
            )
            for seed in SEEDS
        ]
        for residual in get_args(Residual)
    }  # fmt: skip


def judged(
    held_out: Mapping[str, Mapping[str, PerDocument]], gains: Mapping[str, PerDocument]
) -> dict[str, Any]:
    """Intervals of everything, each residual less squares, and the decision of the protocol."""
    measures = {**held_out, "gain of one refocus": gains}
    others = [name for name in held_out[DECIDING[0]] if name != SQUARES]
    differences = {
        other: {measure: less(found[other], found[SQUARES]) for measure, found in measures.items()}
        for other in others
    }
    mean_gain = {name: fmean(found.values()) for name, found in gains.items()}
    better = [
        name
        for name in others
        if _is_better([differences[name][metric] for metric in DECIDING])
        and mean_gain[name] >= mean_gain[SQUARES] - 0.1 * abs(mean_gain[SQUARES])
    ]
    return {
        "measures": {measure: intervals(found) for measure, found in measures.items()},
        "differences": differences,
        "decision": max(better, key=lambda name: mean_gain[name], default=SQUARES),
    }


def _is_better(intervals: Sequence[list[float] | None]) -> bool:
    lows = [found[1] if found else float("-inf") for found in intervals]
    return max(lows) > 0 and min(lows) >= -0.02


def run(name: str, labels: Path, folder: Path) -> dict[str, Any]:
    """Run every step that an earlier run has not finished, and return the results.

    The labels are those that `make absent` left in `labels`.
    """
    scale = SCALES[name]
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = train(labels, folder, planned_runs(scale))
    data = open_training_data(open_store(str(labels / "store")).at(), SEARCHED)
    answer = judged(agreement(data, checkpoints), refocus_gains(data, checkpoints))
    return {
        "scale": {"name": name, **asdict(scale)},
        "seeds": len(SEEDS),
        "residual_limit": ObjectiveConfig().residual_limit,
        **answer,
        "measured": count_labels(labels),
        "machine": machine(),
    }


def main() -> None:
    arguments = options(__doc__)
    result = run(arguments.scale, arguments.labels, arguments.folder)
    write_results(RESULT, result)
    print(json.dumps({"differences": result["differences"], "decision": result["decision"]}, indent=1))


if __name__ == "__main__":
    main()
