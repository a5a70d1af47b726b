"""`make gist-ceiling`: the ladder of ceilings on held-out sources and prose.

Gists optimised directly for a window, at K tokens and with one or four vectors, as inputs, behind the first
layer and as keys and values, for three objectives; each against deletion with 95% bootstrap intervals over
documents, beside its cost. results/gist-ceiling.json holds one row per rung.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from experiments.gists import answer_of, flags, shared_flags
from experiments.result_files import RESULTS, machine, write_results

RESULT = RESULTS / "gist-ceiling.json"
SCALES: dict[str, dict[str, Any]] = {
    # Minutes, to see that everything runs; hours of one core; a day of one core, or an hour of a GPU.
    "quick": {
        "block_sizes": [32], "num_vectors": [1], "objectives": ["others"], "num_steps": 2,
        "documents_per_corpus": 1,
    },
    "small": {"block_sizes": [8, 32], "objectives": ["reconstruct", "others"], "documents_per_corpus": 3},
    "full": {"documents_per_corpus": 16, "num_steps": 100},
}  # fmt: skip
_INTERVALS = (
    "deleted", "start", "reached", "copies_deleted", "copies_start", "copies_reached", "objective_start",
    "objective_reached",
)  # fmt: skip


def run(name: str, folder: Path) -> dict[str, Any]:
    """Measure the ladder, and return the results."""
    started = time.perf_counter()
    settings = {f"gist_ceiling.{key}": value for key, value in SCALES[name].items()}
    answer = answer_of("gist", "ceiling", *shared_flags(folder), "--json", *flags(settings))
    return {
        "command": f"python -m experiments.gist_ceiling --scale {name}",
        "num_documents": answer["num_documents"],
        "rows": [_row(row) for row in answer["rows"]],
        "model": answer["model"],
        "dtype": answer["dtype"],
        "settings": answer["settings"],
        "machine": machine(),
        "seconds": time.perf_counter() - started,
    }  # fmt: skip


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """A rung with [mean, low, high] for each interval."""
    shortened = {key: [row[key]["mean"], row[key]["low"], row[key]["high"]] for key in _INTERVALS}
    return {**row, **shortened}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", choices=sorted(SCALES), default="small")
    parser.add_argument("--folder", type=Path, default=Path("runs/gists"))
    arguments = parser.parse_args()
    result = run(arguments.scale, arguments.folder)
    write_results(RESULT, result)
    print(json.dumps(result["rows"], indent=1))


if __name__ == "__main__":
    main()
