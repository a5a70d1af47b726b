"""What equal compute buys: the same LensNet on the labels of each estimator, judged on held-out documents.

Exact labels of a number of documents cost what the measured contexts say; every other arm gets as many
documents as that buys at its own price, the actions that calibrate it included. Each arm collects a store of
its own through the console script, so its labels, weights and calibration are those of any user's run. The
documents are split once: none of an arm's is near a held-out one. Stores and trained runs are kept in a
folder, and the same command goes on where it stopped.
"""

import json
import math
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from mctrace.base_model.model_source import resolve_model
from mctrace.cli.configuration import PipelineConfig, StoreConfig
from mctrace.collect.config import CollectConfig, CorpusConfig, dense_preset_changes
from mctrace.collect.corpus.configured_corpus import read_configured_corpus
from mctrace.collect.corpus.corpus_reader import Skipped
from mctrace.collect.corpus.documents import Document
from mctrace.datasets.batches.label_reader import TrainingData, open_training_data
from mctrace.datasets.store.schemas import SPLITS
from mctrace.datasets.store.store import open_store
from mctrace.progress import Silent
from mctrace.train.checkpoints.lensnet_checkpoint import load_checkpoint
from mctrace.train.config import OptimiserConfig, TrainConfig, small_preset
from mctrace.train.evaluation.split_evaluation import evaluate_network
from mctrace.train.evaluation.statistics import bootstrap_interval
from mctrace.train.loop.data_loader import TrainingSource
from mctrace.train.loop.training_run import TrainingRun, find_stopped_run
from mctrace.train.objectives.config import ObjectiveConfig
from mctrace.train.run_files import claim_run_folder

_CALIBRATED_CONTEXTS = 8
"""contexts whose actions a calibration is drawn from, each estimated once more"""
_LONGEST = 4
"""documents are cut at so many contexts: one context of each is labelled"""
_SPARE = 1.5
"""documents to learn from for each that is taken: their hash decides the split, and splits have quotas"""
_LEARNT = {"corpus.validation_fraction": 0.15, "corpus.test_fraction": 0.05}
"""an arm's own test split is read by nothing: the same share for every arm"""
_EVEN = {"corpus.validation_fraction": 0.3, "corpus.test_fraction": 0.3}
"""of the held-out store, whose splits are all read"""
Arm = Mapping[str, Any]
"""keys of [collect] that make an estimator"""

_ONE_CONTEXT = {"policies": ["lod0"], "trajectories_per_document": 1, "cursors_per_trajectory": 1}
ARMS: Mapping[str, Arm] = {
    "naive": {},
    "exact": {},
    "exact, a quarter": {"max_actions": 0.25},
    "windowed 128": {"estimator": "windowed", "min_audit_spearman": -1, "audit_fraction": 0},
    "gradient": {"estimator": "gradient", "audit_fraction": 0},
    "screened": {"action_sampling": "screened", "max_actions": 0.25},
    "dense": dense_preset_changes(),
}
"""`max_actions` as a share of a context's; naive labels are exact ones at their own price"""


@dataclass(frozen=True)
class Prices:
    """Processor seconds of all labels of one context by each estimator, and its number of actions."""

    seconds: Mapping[str, float]
    num_actions: int

    @classmethod
    def of(cls, contexts: Sequence[Mapping[str, Any]]) -> "Prices":
        """Means over measured contexts of one case."""
        names = contexts[0]["seconds"]
        seconds = {name: fmean(context["seconds"][name] for context in contexts) for name in names}
        return cls(seconds, contexts[0]["num_legal"])

    def of_document(self, arm: str) -> float:
        """What an arm pays for one document."""
        exact, gradient = self.seconds["exact"], self.seconds["gradient"]
        return {
            "exact, a quarter": exact / 4,
            "screened": gradient + exact / 4,
            "dense": gradient + dense_preset_changes()["audit_fraction"] * exact,
        }.get(arm) or self.seconds[arm]

    def of_calibration(self, arm: str) -> float:
        """What an arm pays once, before it measures."""
        if "estimator" not in ARMS[arm]:
            return 0.0
        name = "gradient" if arm == "dense" else arm
        exactly = CollectConfig().calibration_actions / self.num_actions * self.seconds["exact"]
        return exactly + _CALIBRATED_CONTEXTS * self.seconds[name]

    def num_documents(self, arm: str, num_exact: int) -> int:
        """Documents that an arm measures for the price of `num_exact` documents measured exactly."""
        left = num_exact * self.seconds["exact"] - self.of_calibration(arm)
        return int(left / self.of_document(arm))


@dataclass(frozen=True)
class Setting:
    """Sizes of the comparison, and what it runs on."""

    num_tokens: int
    """entries of a level-0 context"""
    num_exact: int
    """documents whose exact labels set the budget"""
    num_held_out: int
    seeds: int
    steps: int
    arms: tuple[str, ...]
    model: str = "smollm2-135m"
    corpus: tuple[str, ...] = ("stdlib",)
    horizon: int = 128
    further: Mapping[str, Any] = field(default_factory=lambda: {"gists.source": "smollm2-135m-k32"})
    """other keys of the configuration"""


def console_script(*arguments: str) -> None:
    """Run `mctrace` with this process's output."""
    subprocess.run([str(Path(sys.executable).with_name("mctrace")), *arguments], check=True)


def equal_compute(
    setting: Setting, prices: Prices, folder: Path, mctrace: Callable[..., None] = console_script
) -> dict[str, Any]:
    """`equal_compute`: ranking accuracy of each arm on held-out documents; `differences` from exact, paired.

    An arm whose budget does not pay for a document in each split is left out and named.
    """
    numbers = {arm: prices.num_documents(arm, setting.num_exact) for arm in setting.arms}
    left_out = {arm: number for arm, number in numbers.items() if number < len(SPLITS)}
    for arm in left_out:
        print(f"left out: {arm} buys {left_out[arm]} documents, {len(SPLITS)} are the fewest", flush=True)
    bought = {arm: number for arm, number in numbers.items() if arm not in left_out}
    _write_corpora(setting, math.ceil(_SPARE * max(bought.values())), folder)
    _collect(setting, folder, "held_out", "held_out", {}, None, prices, _EVEN, mctrace)
    accuracy: dict[str, dict[str, float]] = {}
    rows = []
    for arm, number in bought.items():
        store = _collect(setting, folder, "learn", arm, ARMS[arm], number, prices, _LEARNT, mctrace)
        runs = [
            _train(setting, store, folder / f"{_plain(arm)}-seed-{seed}", seed)
            for seed in range(setting.seeds)
        ]
        accuracy[arm] = _mean_accuracy(runs, folder / "held_out")
        interval = bootstrap_interval(accuracy[arm], 0)
        rows.append(
            {"estimator": arm, "ranking_accuracy": interval.mean, "low": interval.low, "high": interval.high,
             "num_held_out": interval.num_documents, "num_documents": number, "seeds": setting.seeds,
             "num_labels": _num_labels(store), "seconds_per_document": prices.of_document(arm),
             "seconds_of_calibration": prices.of_calibration(arm)}
        )  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    return {
        "equal_compute": rows,
        "differences": [
            _difference(accuracy, arm) for arm in accuracy if arm != "exact" and "exact" in accuracy
        ],
        "budget_seconds": setting.num_exact * prices.seconds["exact"],
        "left_out": left_out,
        "setting": asdict(setting),
    }


def _difference(accuracy: Mapping[str, Mapping[str, float]], arm: str) -> dict[str, Any]:
    """How much better than exact labels, paired by document."""
    both = accuracy[arm].keys() & accuracy["exact"].keys()
    gaps = {document: accuracy[arm][document] - accuracy["exact"][document] for document in both}
    interval = bootstrap_interval(gaps, 0)
    return {
        "estimator": arm,
        "less": "exact",
        "mean": interval.mean,
        "low": interval.low,
        "high": interval.high,
    }


def _write_corpora(setting: Setting, num_learned: int, folder: Path) -> None:
    """The corpus as token ids in two files: documents to learn from, and held-out ones, near-duplicates on
    one side."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{name}.jsonl" for name in ("learn", "held_out")}
    if all(file.exists() and len(file.read_text().splitlines()) >= wanted for file, wanted in (
        (files["learn"], num_learned), (files["held_out"], setting.num_held_out),
    )):  # fmt: skip
        return
    needed = setting.num_tokens + setting.horizon
    corpus = CorpusConfig(
        setting.corpus, limit=num_learned + setting.num_held_out, min_tokens=needed,
        max_tokens=_LONGEST * needed, validation_fraction=0.25, test_fraction=0.25,
    )  # fmt: skip
    found: dict[str, list[Document]] = {name: [] for name in files}
    side: dict[str, str] = {}
    for document in read_configured_corpus(resolve_model(setting.model), corpus, None, Skipped(), Silent()):
        open_side = "held_out" if len(found["held_out"]) < setting.num_held_out else "learn"
        found[side.setdefault(document.placement.split_group, open_side)].append(document)
    for name, file in files.items():
        rows = [json.dumps({"input_ids": document.tokens.tolist()}) + "\n" for document in found[name]]
        file.write_text("".join(rows), encoding="utf-8")


def _collect(
    setting: Setting, folder: Path, corpus: str, name: str, arm: Arm, number: int | None, prices: Prices,
    shares: Mapping[str, float], mctrace: Callable[..., None],
) -> Path:  # fmt: skip
    """The store of one arm with `number` documents or all; a run that is finished measures nothing again.
    `shares` are keys of the splits."""
    store = folder / _plain(name)
    needed = setting.num_tokens + setting.horizon
    values = {**_ONE_CONTEXT, "lod0_window": setting.num_tokens, "window": setting.num_tokens,
              "horizon": setting.horizon, **arm}  # fmt: skip
    if "max_actions" in values:
        values["max_actions"] = max(1, round(values["max_actions"] * prices.num_actions))
    keys = {
        "corpus.min_tokens": needed, "corpus.max_tokens": _LONGEST * needed, **shares,
        **setting.further, **{f"collect.{key}": value for key, value in values.items()},
    }  # fmt: skip
    sets = [part for key, value in keys.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    mctrace(
        "collect", "--no-ray", "--model", setting.model, "--corpus", str(folder / f"{corpus}.jsonl"),
        "--store", str(store), *([] if number is None else ["--limit", str(number)]), *sets,
    )  # fmt: skip
    return store


def _plain(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


def _train(setting: Setting, store: Path, out: Path, seed: int) -> Path:
    """The best checkpoint; an interrupted run resumes, a finished one stays."""
    steps = setting.steps
    optimiser = replace(small_preset().optimiser, total_steps=steps, warmup_steps=min(40, steps // 4))
    config = _network_config(seed, optimiser)
    stopped = find_stopped_run(out)
    if stopped is None or stopped.info.step < steps:
        version = open_store(str(store)).at(stopped.info.dataset_version if stopped else None)
        run = TrainingRun.of(config, version, str(store), out, stopped=stopped)
        if stopped is None:
            claim_run_folder(
                out, PipelineConfig(store=StoreConfig(str(store)), train=config).to_json(), overwrite=True
            )
        run.train(Silent(), notify=print, alert=print)
    return out / "best"


def _network_config(seed: int, optimiser: OptimiserConfig) -> TrainConfig:
    """The small LensNet, which weighs every label by its error, whatever the estimator."""
    objective = ObjectiveConfig(label_weights="inverse_variance")
    return replace(small_preset(), seed=seed, device="cpu", optimiser=optimiser, objective=objective)


def _mean_accuracy(checkpoints: Sequence[Path], held_out: Path) -> dict[str, float]:
    """Ranking accuracy by held-out document, mean over seeds."""
    found = defaultdict(list)
    for folder in checkpoints:
        network, info = load_checkpoint(folder)
        data = open_training_data(open_store(str(held_out)).at(), info.target, info.utility_scale)
        for split in _present(data):
            examples = TrainingSource(data, None).validation(split, 8)
            for document, value in evaluate_network(
                network, examples, ObjectiveConfig()
            ).per_document["ranking_accuracy"].items():  # fmt: skip
                found[document].append(value)
    return {document: fmean(values) for document, values in found.items()}


def _present(data: TrainingData) -> list[str]:
    return [split for split in SPLITS if data.splits[split]]


def _num_labels(store: Path) -> int:
    data = open_training_data(open_store(str(store)).at())
    return sum(len(snapshot.labels) for split in _present(data) for snapshot in data.snapshots(split))
