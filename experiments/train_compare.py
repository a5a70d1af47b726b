"""`make compare`: networks, objectives and targets on the same labels and the same held-out documents.

Trains every combination under the small preset, evaluates all of one target together with the baselines, and
writes experiments/results/train-compare.json; `experiments.train_compare_page` makes a page of it.
Combinations whose data the store lacks (no variants: no pairs) are left out and named; pairs and the target
`value` do not go together.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, get_args

import torch

from experiments.result_files import RESULTS, interval, write_results
from mctrace.cli.configuration import PipelineConfig, StoreConfig
from mctrace.datasets.store.store import open_store
from mctrace.errors import InputError
from mctrace.progress import Silent
from mctrace.train.checkpoint_evaluation import evaluate_checkpoints
from mctrace.train.config import TrainConfig, small_preset
from mctrace.train.loop.training_run import TrainingRun, find_stopped_run
from mctrace.train.networks.config import NetworkName
from mctrace.train.objectives.config import ObjectiveConfig, ObjectiveName
from mctrace.train.run_files import claim_run_folder

RESULT = RESULTS / "train-compare.json"
METRICS = ("utility_correlation", "ranking_accuracy", "kendall_tau", "mse")
"""shown on the page, and kept in the results"""
TARGETS = ("value", "value_and_price", "priced", "literal")

VARIATIONS: dict[str, dict[str, Any]] = {
    "as by default": {},
    "inverse variance": {"label_weights": "inverse_variance"},
    "inclusion": {"weigh_by_inclusion": True},
    "illegality sum": {"illegality": "sum"},
    "budget specification": {"budget": "specification"},
    "units entries": {"units": "entries"},
    "huber": {"residual": "huber"},
    "clipped": {"residual": "clipped"},
}
"""variations of the counterfactual objective, tried with the default network under `priced`: its scores have
signs to balance and to keep legal"""


@dataclass(frozen=True)
class Combination:
    """One training run; runs that differ only by seed share a `kind`."""

    target: str
    kind: str
    train: TrainConfig

    @property
    def run_name(self) -> str:
        return f"{self.kind}, seed {self.train.seed}".replace(", ", "-").replace(" ", "_").replace(":", "")


def combinations(seeds: int) -> Iterator[Combination]:
    """Every network, objective and target that go together, then every variation of the objective."""
    networks, objectives = get_args(NetworkName), get_args(ObjectiveName)
    for target, network, objective, seed in product(TARGETS, networks, objectives, range(seeds)):
        if target == "value" and objective != "counterfactual":  # pairs teach signs
            continue
        yield _combination(target, f"{network}, {objective}", network, ObjectiveConfig(objective), seed)
    default = TrainConfig()
    for (variation, changes), seed in product(VARIATIONS.items(), range(seeds)):
        objective_config = replace(ObjectiveConfig(), **changes)
        kind = f"variation: {variation}"
        yield _combination("priced", kind, default.network.name, objective_config, seed)


def _combination(
    target: str, kind: str, network: NetworkName, objective: ObjectiveConfig, seed: int
) -> Combination:
    train = replace(small_preset(network), target=target, seed=seed, objective=objective, device="cpu")
    return Combination(target, kind, train)


_stopped: list[str] = []
"""name of the run in which this process was interrupted, if any"""


def train_one(store: str, out: Path, one: Combination) -> str | None:
    """Train the run that `out` lacks. Returns why the store's data cannot train it, None where it did.

    Interrupting one run interrupts all, those queued in this process included; the same command resumes.
    """
    if _stopped:
        raise KeyboardInterrupt
    torch.set_num_threads(1)
    folder = out / one.target / one.run_name
    try:
        stopped = find_stopped_run(folder)
        version = open_store(store).at(stopped.info.dataset_version if stopped else None)
        run = TrainingRun.of(one.train, version, store, folder, stopped=stopped)
        if stopped is None:
            config = PipelineConfig(store=StoreConfig(store), train=one.train)
            claim_run_folder(folder, config.to_json(), overwrite=True)
        result = run.train(Silent(), notify=_ignore, alert=_ignore)
    except InputError as error:
        return str(error)
    if result.ending == "stopped":
        _stopped.append(one.run_name)
        raise KeyboardInterrupt
    return None


def _ignore(message: str) -> None:
    """Messages of parallel runs would interleave."""


def compare(store: str, out: Path, seeds: int, split: str, jobs: int, skip: Sequence[str]) -> dict[str, Any]:
    """Train and evaluate every kind but those in `skip`, `jobs` runs at once with one thread each.

    Finished runs in `out` are not trained again.
    """
    started = time.perf_counter()
    kinds: dict[str, list[str]] = {}
    folders: dict[str, list[Path]] = {target: [] for target in TARGETS}
    left_out = dict.fromkeys(skip, "not asked for (--skip)")
    # Forked children break deltalake and zarr.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        planned = [one for one in combinations(seeds) if one.kind not in skip]
        for one, why in zip(planned, pool.map(partial(train_one, store, out), planned), strict=True):
            if why:
                left_out[f"{one.target}: {one.kind}"] = why
                continue
            folders[one.target].append(out / one.target / one.run_name / "best")
            kinds.setdefault(f"{one.target}: {one.kind}", []).append(one.run_name)
            print(f"{one.target}, {one.run_name}: {time.perf_counter() - started:.0f} s", flush=True)
    judged = {}
    for target, checkpoints in folders.items():
        if not checkpoints:
            continue
        train = replace(small_preset(), target=target)
        evaluation = evaluate_checkpoints(train, open_store(store).at(), store, checkpoints, split)
        judged[target] = summary(evaluation.answer)
    return {
        "store": store, "split": split, "seeds": seeds, "kinds": kinds, "left_out": left_out,
        "judged": judged, "seconds": time.perf_counter() - started,
    }  # fmt: skip


def summary(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an evaluation that the page needs: [mean, low, high] of METRICS by scorer."""
    scorers = evaluation["scorers"]
    estimates = [estimate for metrics in scorers.values() for estimate in metrics.values()]
    return {
        **{name: evaluation[name] for name in ("version", "dataset", "target", "target_hash", "kinds")},
        "num_snapshots": evaluation["num_snapshots"],
        "num_documents": max(estimate["num_documents"] for estimate in estimates),
        "scorers": {
            name: {metric: interval(metrics[metric]) for metric in METRICS if metric in metrics}
            for name, metrics in scorers.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", required=True, help="store with labels and variants")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), help="folder for the runs")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each kind")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, on one thread each")
    parser.add_argument(
        "--skip", action="append", default=[], help='a kind, e.g. "transformer, preference" (repeatable)'
    )
    parser.add_argument("--split", default="test", help="train, validation or test")
    arguments = parser.parse_args()
    result = compare(
        arguments.store, arguments.out, arguments.seeds, arguments.split, arguments.jobs, arguments.skip
    )
    write_results(RESULT, result)
    print(json.dumps({key: result[key] for key in ("store", "split", "seeds", "left_out", "seconds")}))


if __name__ == "__main__":
    main()
