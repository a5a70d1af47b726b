"""`make preferences`: a run on pairs of contexts whose telemetry is kept, and what its scores do in the loop.

Pairs are measured with a real model on real text (preferences.toml): windows shown as tokens and as seeded
compressions. `preference_corr_mean`, the correlation of the scores' opinion of a move with the loss that the
move adds, should become negative and stay so: with the specification's objective, which scores the worse
context of a pair; with both contexts scored; and with labels beside pairs. The checkpoints then go through a
short closed loop with truncation and recency.

Every step runs through the console script and resumes where it stopped. results/preferences.json keeps
telemetry and loop; `preferences_page` shows them.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.closed_loop import mctrace
from experiments.result_files import RESULTS, interval, write_results
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store.store import open_store
from mctrace.train.run_files import METRICS_FILE

CONFIG = Path(__file__).with_suffix(".toml")
RESULT = RESULTS / "preferences.json"
RUNS = {
    "preference": ("preference", "worse"),
    "both": ("preference", "both"),
    "mixed": ("mixed", "both"),
}
"""run -> its objective, and the contexts of a pair that are scored"""
CURVES = {
    "train": ("L_pref", "preference_corr_mean", "adv_delta_mean", "adv_delta_p95", "variants_total"),
    "validation": ("L_pref", "preference_corr_mean", "preference_agreement"),
}
"""values of each split that the results keep, by the names of the telemetry"""


def train(folder: Path, name: str, steps: int) -> Path:
    """Train the small preset's network on a run's objective and return its best checkpoint."""
    out, (objective, compared) = folder / name, RUNS[name]
    if not (out / f"step_{steps:07d}").is_dir():
        begun = "--resume" if any(out.glob("step_*")) else "--overwrite"
        mctrace(
            "train", "--config", str(CONFIG), "--store", str(folder / "store"), "--preset", "small",
            "--objective", objective, "--out", str(out), begun,
            "--set", f"train.optimiser.total_steps={steps}", "--set", "train.eval_interval=20",
            "--set", f"train.objective.preference.compared={compared}",
        )  # fmt: skip
    return out / "best"


def telemetry(run: Path) -> dict[str, dict[str, list[float | None]]]:
    """Split -> name -> value at each telemetry line, with the lines' steps under `step`."""
    lines = [json.loads(line) for line in (run / METRICS_FILE).read_text(encoding="utf-8").splitlines()]
    return {
        split: {
            name: [line.get(name) for line in lines if line["split"] == split] for name in ("step", *names)
        }
        for split, names in CURVES.items()
    }


def negative_from(curve: Mapping[str, list[float | None]]) -> float | None:
    """First step from which on preference_corr_mean is below 0 to the end; None where its last is not."""
    found = None
    for step, value in zip(curve["step"], curve["preference_corr_mean"], strict=True):
        if value is None or value >= 0:
            found = None
        elif found is None:
            found = step
    return found


def run(folder: Path, steps: int) -> dict[str, Any]:
    """Run every step that an earlier run has not finished, and return the results."""
    store = str(folder / "store")
    mctrace("collect", "--no-ray", "--config", str(CONFIG), "--store", store)
    checkpoints = [train(folder, name, steps) for name in RUNS]
    mctrace(
        "evaluate", "--closed-loop", "--config", str(CONFIG), "--store", store, "--out", str(folder / "loop"),
        *map(str, checkpoints),
    )  # fmt: skip
    answer = json.loads((folder / "loop" / "closed_loop.json").read_text())
    return summary(answer, folder, steps)


def summary(answer: Mapping[str, Any], folder: Path, steps: int) -> dict[str, Any]:
    """Telemetry of the runs in `folder`, and the part of a closed loop's answer that the page needs."""
    curves = {name: telemetry(folder / name) for name in RUNS}
    (group,) = answer["groups"].values()  # one corpus
    return {
        "steps": steps,
        "telemetry": curves,
        "negative_from": {
            name: {split: negative_from(curve) for split, curve in found.items()}
            for name, found in curves.items()
        },
        "loop": {
            name: {key: interval(found[key]) for key in ("nll", "less_than_recency")}
            for name, found in group.items()
        },
        "loop_documents": answer["num_documents"],
        "closed_loop": answer["closed_loop"],
        "measured": fetch_rows(
            connect(open_store(str(folder / "store")).at()),
            """select split, count(distinct document_id) as documents,
                count(distinct variant_group_id) as groups, count(*) as pairs
            from preference_pairs group by split order by split""",
        ),
        "model": answer["model"],
        "gists": answer["gists"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/preferences"))
    parser.add_argument("--steps", type=int, default=300, help="optimiser steps of each run")
    arguments = parser.parse_args()
    result = run(arguments.folder, arguments.steps)
    write_results(RESULT, result)
    print(json.dumps(result["negative_from"]))


if __name__ == "__main__":
    main()
