"""Each network, objective and target on the same labels, judged on the same held-out documents.

    python -m benchmarks.train_compare --store demo/store --out runs/compare

Trains every combination under the small preset with several seeds, judges all of one target together with
the baselines, and writes benchmarks/results/train-compare.json; `benchmarks.train_compare_page` makes a page
of it. Combinations whose data the store lacks (no variants: no pairs) are left out and named.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from mctrace.context.errors import InputError
from mctrace.pipeline.config import PipelineConfig, StoreConfig
from mctrace.pipeline.evaluate_command import evaluate_checkpoints
from mctrace.pipeline.train_command import train_run
from mctrace.train.config import NetworkName, small_preset
from mctrace.train.objective_config import ObjectiveConfig, ObjectiveName

RESULTS = Path(__file__).parent / "results"
TARGETS = ("priced", "literal")

VARIATIONS: dict[str, dict[str, Any]] = {
    "as by default": {},
    "inverse variance": {"label_weights": "inverse_variance"},
    "inclusion": {"weigh_by_inclusion": True},
    "illegality sum": {"illegality": "sum"},
    "budget specification": {"budget": "specification"},
    "units entries": {"units": "entries"},
}
"""Ways the counterfactual objective can be put, tried with the default network and target"""


def runs(seeds: int) -> Iterator[tuple[str, str, ObjectiveConfig, str, NetworkName, int]]:
    """(target, name of the run's kind, objective, variation, network, seed)"""
    networks, objectives = get_args(NetworkName), get_args(ObjectiveName)
    for target, network, objective, seed in product(TARGETS, networks, objectives, range(seeds)):
        yield target, f"{network}, {objective}", ObjectiveConfig(objective), "", network, seed
    for (variation, changes), seed in product(VARIATIONS.items(), range(seeds)):
        config = replace(ObjectiveConfig(), **changes)
        yield "priced", f"variation: {variation}", config, variation, "dual_cross_attention", seed


def compare(store: str, out: Path, seeds: int, split: str) -> dict[str, Any]:
    """Everything, one after the other; what is in `out` already is not trained again."""
    quiet, started = Console(quiet=True), time.perf_counter()
    kinds: dict[str, list[str]] = {}
    folders: dict[str, list[Path]] = {target: [] for target in TARGETS}
    left_out: dict[str, str] = {}
    for target, kind, objective, _, network, seed in runs(seeds):
        train = replace(small_preset(network), target=target, seed=seed, objective=objective, device="cpu")
        config = PipelineConfig(store=StoreConfig(store), train=train)
        run = out / target / f"{kind}, seed {seed}".replace(", ", "-").replace(" ", "_").replace(":", "")
        try:
            stopped = (
                train_run(config, None, run, overwrite=False, resume=True, console=quiet).ending == "stopped"
            )
        except InputError as error:
            left_out[f"{target}: {kind}"] = str(error)
            continue
        if stopped:  # whoever stops one run means all of them; the same command goes on
            raise KeyboardInterrupt
        folders[target].append(run / "best")
        kinds.setdefault(f"{target}: {kind}", []).append(run.name)
        print(f"{target}, {kind}, seed {seed}: {time.perf_counter() - started:.0f} s", flush=True)
    judged = {}
    for target, checkpoints in folders.items():
        config = PipelineConfig(store=StoreConfig(store), train=replace(small_preset(), target=target))
        evaluate_checkpoints(config, checkpoints, None, split, False, quiet)
        judged[target] = json.loads((checkpoints[0].parent / "evaluation.json").read_text())
    return {
        "store": store, "split": split, "seeds": seeds, "kinds": kinds, "left_out": left_out,
        "judged": judged, "seconds": time.perf_counter() - started,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", required=True, help="store with labels and variants")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), help="folder for the runs")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind")
    parser.add_argument("--split", default="test", help="train, validation or test")
    arguments = parser.parse_args()
    result = compare(arguments.store, arguments.out, arguments.seeds, arguments.split)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "train-compare.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: result[key] for key in ("store", "split", "seeds", "left_out", "seconds")}))


if __name__ == "__main__":
    main()
