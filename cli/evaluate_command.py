"""`mctrace evaluate`: checkpoints judged on held-out documents, beside baselines that cost nothing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from mctrace.cli.config import PipelineConfig
from mctrace.cli.output import print_table
from mctrace.cli.reading import open_version
from mctrace.datasets.batches.collate import ordered_batches
from mctrace.datasets.batches.label_reader import TrainingData, open_training_data
from mctrace.datasets.batches.pair_reader import PreferenceData, open_preference_data
from mctrace.datasets.sql.target import Target
from mctrace.datasets.store.provenance import Provenance, mixture_in
from mctrace.datasets.store.store import StoreVersion
from mctrace.errors import InputError
from mctrace.train.checkpoints.lensnet_checkpoint import CheckpointInfo, checkpoint_name, load_checkpoint
from mctrace.train.config import TrainConfig
from mctrace.train.device import resolve_device, uses_bfloat16
from mctrace.train.evaluation.baselines import attention_scores, fit_ridge, noise_scores, recency_scores
from mctrace.train.evaluation.split_evaluation import ScoreFunction, evaluate_all, score_function
from mctrace.train.evaluation.statistics import Interval, bootstrap_interval
from mctrace.train.loop.data_loader import TrainingSource
from mctrace.train.run_files import EVALUATION_FILE
from mctrace.train.serving.compatibility import check_compatible

_EVERY_PAIR = 1_000_000
"""pairs per group, more than any has: what is judged is not capped as what is learned from"""
_METRICS = (
    "ranking_accuracy", "utility_correlation", "kendall_tau", "mse", "budget_balance",
    "legality_compliance", "preference_corr", "preference_agreement",
)  # fmt: skip


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
    device = resolve_device(config.train.device)
    bfloat16 = uses_bfloat16(config.train.precision, device)
    loaded = [load_checkpoint(folder) for folder in checkpoints]
    first = loaded[0][1]
    store = open_version(config.store, version, dataset)
    source = _source(store, first, config)
    for folder, (_, info) in zip(checkpoints, loaded, strict=True):
        _check_comparable(info, first, store, source, folder)
    _say_mixture(source)
    scorers = _baselines(source, split, config.train)
    for folder, (network, _) in zip(checkpoints, loaded, strict=True):
        name = checkpoint_name(folder)
        if name in scorers:
            raise InputError(f"two scorers are called {name!r}: move the run in {folder} to another folder")
        scorers[name] = score_function(network.to(device), bfloat16=bfloat16)
    results = evaluate_all(
        scorers,
        source.validation(split, config.train.batch_size),
        config.train.objective,
        source.evaluation_state(split, config.train.objective.preference),
    )
    intervals = {name: _intervals(result.per_document, config.train.seed) for name, result in results.items()}
    one = next(iter(results.values()))
    answer = {
        "checkpoints": [str(folder) for folder in checkpoints],
        "store": config.store.uri,
        "version": store.version,
        "dataset": dataset,
        "split": split,
        "kinds": [asdict(kind) for kind in _kinds(source)],
        "target": first.target,
        "target_hash": _target(first).hash,
        "num_snapshots": one.num_snapshots,
        "num_variants": one.num_variants,
        "scorers": {
            name: {metric: asdict(interval) for metric, interval in found.items()}
            for name, found in intervals.items()
        },
        "pooled": {name: result.scalars() for name, result in results.items()},
    }
    if as_json:
        print(json.dumps(answer))
    else:
        _print_judgement(answer, intervals, console)
    file = checkpoints[0].parent / EVALUATION_FILE
    try:
        file.write_text(json.dumps(answer, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"the evaluation cannot be kept in {file}: {error.strerror}") from error


def _source(store: StoreVersion, info: CheckpointInfo, config: PipelineConfig) -> TrainingSource:
    """Labels and pairs of the store, whichever there are, in the mixture that the checkpoint learned from.

    Raises InputError when there are neither.
    """
    mix = {*config.store.mix, *mixture_in(info.dataset)}
    labels: TrainingData | None = None
    pairs: PreferenceData | None = None
    try:
        labels = open_training_data(
            store,
            _target(info),
            info.utility_scale,
            where=config.train.where,
            mix=mix,
            with_attention=True,
        )
    except InputError:
        if info.training["objective"].get("name", "counterfactual") != "preference":
            raise
    if _has_pairs(info):
        pairs = open_preference_data(
            store,
            max_pairs=_EVERY_PAIR,
            hard_negative_share=1.0,
            where=config.train.pairs_where,
            mix=mix,
        )
    return TrainingSource(labels, pairs)


def _has_pairs(info: CheckpointInfo) -> bool:
    """Whether the checkpoint learned from pairs; judged on them it is then."""
    return bool(info.training["objective"].get("name", "counterfactual") != "counterfactual")


def _target(info: CheckpointInfo) -> Target:
    """The target as it was when the checkpoint learned it, whatever has become of its file since."""
    return Target(info.target, info.target_sql) if info.target_sql else Target.named(info.target)


def _baselines(source: TrainingSource, split: str, config: TrainConfig) -> dict[str, ScoreFunction]:
    """What a network has to beat: the best linear one, recency, attention mass where kept, and noise."""
    found: dict[str, ScoreFunction] = {}
    if source.labels is not None:
        data = source.labels
        found["ridge"] = fit_ridge(
            ordered_batches(data, "train", config.batch_size),
            ordered_batches(data, "validation", config.batch_size),
            config.objective,
        )
    found["recency"] = recency_scores
    if source.labels is not None and source.pairs is None:
        snapshots = source.labels.snapshots(split)
        if any(snapshot.head.attention_N is not None for snapshot in snapshots):
            found["attention"] = attention_scores
    found["noise"] = partial(noise_scores, generator=torch.Generator().manual_seed(config.seed))
    return found


def _check_comparable(
    info: CheckpointInfo, first: CheckpointInfo, store: StoreVersion, source: TrainingSource, folder: Path
) -> None:
    at = f"{store.location.uri} at version {store.version}"
    check_compatible(info, folder, _kinds(source), f"those of {at} have")
    if _target(info).hash != _target(first).hash:
        raise InputError(
            f"{folder} was trained on target {info.target!r} ({_target(info).hash[:8]}), the first "
            f"checkpoint on {first.target!r} ({_target(first).hash[:8]}): evaluate them one by one"
        )


def _kinds(source: TrainingSource) -> tuple[Provenance, ...]:
    """What labels and pairs depend on, each kind once."""
    of_labels = source.labels.arrays.kinds if source.labels else ()
    of_pairs = source.pairs.arrays.kinds if source.pairs else ()
    return tuple(dict.fromkeys((*of_labels, *of_pairs)))


def _say_mixture(source: TrainingSource) -> None:
    """On standard error: what was judged on is also in the answer."""
    kinds = _kinds(source)
    if len(kinds) > 1:
        Console(stderr=True, soft_wrap=True).print(
            f"judged on a mixture, as it was learned from: {'; '.join(map(str, kinds))}",
            markup=False,
            highlight=False,
        )


def _intervals(per_document: Mapping[str, Mapping[str, float]], seed: int) -> dict[str, Interval]:
    return {
        metric: bootstrap_interval(values, seed) for metric, values in sorted(per_document.items()) if values
    }


def _print_judgement(
    answer: Mapping[str, Any], intervals: Mapping[str, Mapping[str, Interval]], console: Console
) -> None:
    metrics = [metric for metric in _METRICS if any(metric in found for found in intervals.values())]
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
