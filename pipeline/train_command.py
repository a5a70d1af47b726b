"""`mctrace train` and `mctrace evaluate`: a store in, a checkpoint or a judgement out. No base model."""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from mctrace.analysis.run_folder import EVALUATION_FILE, METRICS_FILE
from mctrace.context.errors import InputError
from mctrace.datasets.batch import Batch
from mctrace.datasets.batches import ordered_batches, shuffled_batches
from mctrace.datasets.store import open_store
from mctrace.datasets.training_data import TrainingData, open_training_data
from mctrace.pipeline.config import PipelineConfig
from mctrace.pipeline.output import print_table
from mctrace.pipeline.progress import make_progress
from mctrace.train.baselines import noise_scores, recency_scores
from mctrace.train.checkpoint import CheckpointInfo, checkpoint_writer, describe, load_checkpoint
from mctrace.train.estimates import Interval, bootstrap_interval
from mctrace.train.evaluation import EvaluationResult, evaluate, judge
from mctrace.train.folders import BEST
from mctrace.train.loop import endless
from mctrace.train.networks import build_network
from mctrace.train.telemetry import JsonlSink, TensorBoardSink
from mctrace.train.trainer import fit

CONFIG_FILE = "config.json"


def train_run(
    config: PipelineConfig,
    version: int | None,
    out: Path,
    *,
    dataset: str | None = None,
    overwrite: bool,
    console: Console,
) -> None:
    """Trains on the train split, validates on the validation split, leaves checkpoints in `out`."""
    train = config.train
    store_version = open_store(config.store.uri).at(version).read_through(dataset)
    data = open_training_data(store_version, train.target)
    _say_what_is_learned(data, console)
    network = build_network(train.network, data.embedding_dim, seed=train.seed)
    info = describe(
        train,
        embedding_dim=data.embedding_dim,
        block_size=data.provenance.block_size,
        max_level=data.provenance.max_level,
        utility_scale=data.utility_scale,
        dataset={
            "uri": config.store.uri,
            "version": data.version.version,
            **({"derived": dataset} if dataset else {}),
            **asdict(data.provenance),
        },
    )
    validation = list(ordered_batches(data, "validation", train.batch_size))
    training = partial(_epoch, data, train.batch_size, train.seed)
    claim_run_folder(out, config, overwrite=overwrite)
    progress = make_progress(console)
    with (
        JsonlSink(out / METRICS_FILE) as jsonl,
        TensorBoardSink(out / "tensorboard") as board,
    ):
        progress.start("training", train.optimiser.total_steps, "steps")
        result = fit(
            network,
            endless(training),
            train,
            evaluate=lambda net: evaluate(net, validation, train.objective).scalars(),
            save=checkpoint_writer(out, network, info, train.keep_last),
            sinks=[jsonl, board],
            progress=lambda step: progress.advance(1, f"loss {step.values['loss']:.4f}"),
        )
    progress.stop()
    console.print(
        f"Best at step {result.best_step} of {result.num_steps}: "
        + ", ".join(f"{name} {value:.4g}" for name, value in _headline(result.best).items())
        + f" on validation\nCheckpoint {out / BEST}; metrics {out / METRICS_FILE}, {out / 'tensorboard'}",
        highlight=False,
    )


def evaluate_checkpoints(
    config: PipelineConfig,
    checkpoints: Sequence[Path],
    version: int | None,
    split: str,
    as_json: bool,
    console: Console,
    dataset: str | None = None,
) -> None:
    """Judges checkpoints and the baselines on one split under the first checkpoint's target and scale."""
    networks = [load_checkpoint(folder) for folder in checkpoints]
    first = networks[0][1]
    store_version = open_store(config.store.uri).at(version).read_through(dataset)
    data = open_training_data(store_version, first.target, first.utility_scale)
    batches, objective = list(ordered_batches(data, split, config.train.batch_size)), config.train.objective
    results: dict[str, EvaluationResult] = {}
    for folder, (network, info) in zip(checkpoints, networks, strict=True):
        _check_comparable(info, first, data, folder)
        results[_name_of(folder)] = evaluate(network, batches, objective)
    noise = partial(noise_scores, generator=torch.Generator().manual_seed(config.train.seed))
    results["recency"] = judge(recency_scores, batches, objective)
    results["noise"] = judge(noise, batches, objective)
    intervals = {name: _intervals(result, config.train.seed) for name, result in results.items()}
    answer = {
        "checkpoints": [str(folder) for folder in checkpoints],
        "store": config.store.uri,
        "version": data.version.version,
        "dataset": dataset,
        "split": split,
        "target": data.target,
        "num_snapshots": next(iter(results.values())).num_snapshots,
        "scorers": {
            name: {metric: asdict(interval) for metric, interval in found.items()}
            for name, found in intervals.items()
        },
    }
    text = json.dumps(answer, indent=2)
    (checkpoints[0].parent / EVALUATION_FILE).write_text(text + "\n", encoding="utf-8")
    if as_json:
        print(json.dumps(answer))
    else:
        _print_judgement(answer, intervals, console)


def _epoch(data: TrainingData, batch_size: int, seed: int, epoch: int) -> Iterable[Batch]:
    return shuffled_batches(data, "train", batch_size, seed=seed, epoch=epoch)


def claim_run_folder(out: Path, config: PipelineConfig, *, overwrite: bool) -> None:
    """Takes the run folder; raises InputError when an earlier run is in it and may not be replaced."""
    if (out / METRICS_FILE).exists():
        if not overwrite:
            raise InputError(f"{out} holds an earlier run: choose another --out, or --overwrite it")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / CONFIG_FILE).write_text(config.to_json() + "\n", encoding="utf-8")


def _check_comparable(info: CheckpointInfo, first: CheckpointInfo, data: TrainingData, folder: Path) -> None:
    theirs = {key: info.dataset[key] for key in ("model_hash", "gist_hash")}
    ours = {key: getattr(data.provenance, key) for key in theirs}
    if theirs != ours:
        raise InputError(
            f"{folder} was trained on labels of another base model or GistNet than "
            f"{data.version.location.uri} holds"
        )
    if info.target != first.target:
        raise InputError(
            f"{folder} was trained on target {info.target!r}, the first checkpoint on {first.target!r}: "
            "evaluate them one by one"
        )


def _say_what_is_learned(data: TrainingData, console: Console) -> None:
    counts = ", ".join(f"{len(data.snapshots(split))} {split}" for split in ("train", "validation"))
    dropped = f"; {data.num_without_target} snapshots have no target" if data.num_without_target else ""
    console.print(
        f"Learning target {data.target!r} from version {data.version.version}: {counts} snapshots, "
        f"1 score unit = {data.utility_scale:.4g} nats{dropped}",
        highlight=False,
    )


def _headline(values: Mapping[str, float]) -> dict[str, float]:
    names = ("loss", "ranking_accuracy", "utility_correlation")
    return {name: values[name] for name in names if name in values}


def _name_of(folder: Path) -> str:
    """A run's checkpoint is called by its run; any other by its own folder."""
    return folder.parent.name if folder.name == BEST else str(folder)


def _intervals(result: EvaluationResult, seed: int) -> dict[str, Interval]:
    return {
        metric: bootstrap_interval(values, seed)
        for metric, values in sorted(result.per_document.items())
        if values
    }


def _print_judgement(
    answer: Mapping[str, Any], intervals: Mapping[str, Mapping[str, Interval]], console: Console
) -> None:
    metrics = ("ranking_accuracy", "utility_correlation", "mse", "budget_balance", "legality_compliance")
    num_documents = max(i.num_documents for found in intervals.values() for i in found.values())
    table = Table(
        title=f"{answer['split']} split, target {answer['target']}: {answer['num_snapshots']} snapshots of "
        f"{num_documents} documents; mean over documents and 95% bootstrap interval"
    )
    table.add_column("scorer")
    for metric in metrics:
        table.add_column(metric, justify="right")
    for name, found in intervals.items():
        table.add_row(name, *(_cell(found.get(metric)) for metric in metrics))
    print_table(table, console)


def _cell(interval: Interval | None) -> str:
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]" if interval else ""
