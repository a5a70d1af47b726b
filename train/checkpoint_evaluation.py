"""Evaluation of checkpoints on one split of a store, beside baselines that cost nothing.

Everything is judged under the target, utility scale and objective of the first checkpoint.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mctrace.datasets.batches.collate import ordered_batches
from mctrace.datasets.batches.label_reader import TrainingData, open_training_data
from mctrace.datasets.batches.pair_reader import PreferenceData, open_preference_data
from mctrace.datasets.sql.target import Target
from mctrace.datasets.store.provenance import Mix, Provenance, mixture_in
from mctrace.datasets.store.store import StoreVersion
from mctrace.errors import ConfigError, InputError
from mctrace.train.checkpoints.lensnet_checkpoint import CheckpointInfo, checkpoint_name, load_checkpoint
from mctrace.train.config import TrainConfig
from mctrace.train.device import resolve_device, uses_bfloat16
from mctrace.train.evaluation.baselines import attention_scores, fit_ridge, noise_scores, recency_scores
from mctrace.train.evaluation.split_evaluation import ScoreFunction, evaluate_all, score_function
from mctrace.train.evaluation.statistics import Interval, bootstrap_interval
from mctrace.train.loop.data_loader import TrainingSource
from mctrace.train.networks.lensnet import LensNet
from mctrace.train.objectives.config import ObjectiveConfig, PreferenceConfig
from mctrace.train.run_files import EVALUATION_FILE
from mctrace.train.serving.compatibility import check_compatible

_EVERY_PAIR = 1_000_000
"""pairs per group, more than any has: training caps them, evaluation does not"""


@dataclass(frozen=True)
class CheckpointEvaluation:
    """Scores of checkpoints and baselines on the documents of one split."""

    intervals: Mapping[str, Mapping[str, Interval]]
    """scorer -> metric -> mean over documents with its bootstrap interval"""
    kinds: tuple[Provenance, ...]
    """models, GistNets and trees of the labels and pairs; several for a mixture"""
    answer: Mapping[str, Any]
    """everything as plain JSON"""

    def write(self, run_folder: Path) -> None:
        """Write evaluation.json. Raises InputError when it cannot be written."""
        file = run_folder / EVALUATION_FILE
        try:
            file.write_text(json.dumps(self.answer, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"the evaluation cannot be kept in {file}: {error.strerror}") from error


def evaluate_checkpoints(
    config: TrainConfig,
    store: StoreVersion,
    store_uri: str,
    checkpoints: Sequence[Path],
    split: str,
    mix: Collection[Mix] = (),
) -> CheckpointEvaluation:
    """Evaluate checkpoints and the baselines on `split`.

    Raises InputError for checkpoints that cannot be compared, or that did not learn from labels of this kind.
    """
    device = resolve_device(config.device)
    bfloat16 = uses_bfloat16(config.precision, device)
    loaded = [load_checkpoint(folder) for folder in checkpoints]
    first = loaded[0][1]
    config = replace(config, objective=_objective(first, checkpoints[0]))
    match_words = any(network.match_words for network, _ in loaded)
    source = replace(_source(store, first, config, mix), match_words=match_words)
    for folder, (_, info) in zip(checkpoints, loaded, strict=True):
        _check_comparable(info, first, store, source, folder)
    scorers = _baselines(source, split, config)
    for folder, (network, _) in zip(checkpoints, loaded, strict=True):
        _add_network(scorers, network.to(device), folder, bfloat16=bfloat16)
    results = evaluate_all(
        scorers,
        source.validation(split, config.batch_size),
        config.objective,
        source.evaluation_state(split, config.objective.preference),
    )
    intervals = {name: _intervals(result.per_document, config.seed) for name, result in results.items()}
    one = next(iter(results.values()))
    answer = {
        "checkpoints": [str(folder) for folder in checkpoints],
        "store": store_uri,
        "version": store.version,
        "dataset": store.dataset,
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
    return CheckpointEvaluation(intervals, _kinds(source), answer)


def _objective(info: CheckpointInfo, folder: Path) -> ObjectiveConfig:
    """The objective that the checkpoint was trained with; keys that this version lacks are left out."""
    found = dict(info.training.get("objective", {}))
    pairs = found.pop("preference", {})
    known = {one.name for one in fields(ObjectiveConfig)}, {one.name for one in fields(PreferenceConfig)}
    try:
        return ObjectiveConfig(
            **{name: value for name, value in found.items() if name in known[0]},
            preference=PreferenceConfig(**{name: value for name, value in pairs.items() if name in known[1]}),
        )
    except (ConfigError, TypeError) as error:
        raise InputError(f"{folder} was trained with an objective that cannot be read: {error}") from error


def _add_network(
    scorers: dict[str, ScoreFunction], network: LensNet, folder: Path, *, bfloat16: bool
) -> None:
    name = checkpoint_name(folder)
    if name in scorers:
        raise InputError(f"two scorers are called {name!r}: move the run in {folder} to another folder")
    scorers[name] = score_function(network, bfloat16=bfloat16)


def _source(
    store: StoreVersion, info: CheckpointInfo, config: TrainConfig, mix: Collection[Mix]
) -> TrainingSource:
    """Labels and pairs of the store, where there are any, in the mixture that the checkpoint learned from.

    Raises InputError when there are neither.
    """
    mix = {*mix, *mixture_in(info.dataset)}
    labels: TrainingData | None = None
    pairs: PreferenceData | None = None
    try:
        labels = open_training_data(
            store, _target(info), info.utility_scale, where=config.where, mix=mix, with_attention=True
        )
    except InputError:
        if info.training["objective"].get("name", "counterfactual") != "preference":
            raise
    if _learned_pairs(info):
        pairs = open_preference_data(
            store,
            max_pairs=_EVERY_PAIR,
            hard_negative_share=1.0,
            where=config.pairs_where,
            mix=mix,
        )
    return TrainingSource(labels, pairs)


def _learned_pairs(info: CheckpointInfo) -> bool:
    """True for a checkpoint that learned from pairs, and so is judged on them too."""
    return bool(info.training["objective"].get("name", "counterfactual") != "counterfactual")


def _target(info: CheckpointInfo) -> Target:
    """The target as the checkpoint learned it, even where its file has changed since."""
    return Target(info.target, info.target_sql) if info.target_sql else Target.named(info.target)


def _baselines(source: TrainingSource, split: str, config: TrainConfig) -> dict[str, ScoreFunction]:
    """Scorers that a network has to beat: ridge regression, recency, attention mass where kept, and noise."""
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
    """Distinct models, GistNets and trees of labels and pairs."""
    of_labels = source.labels.arrays.kinds if source.labels else ()
    of_pairs = source.pairs.arrays.kinds if source.pairs else ()
    return tuple(dict.fromkeys((*of_labels, *of_pairs)))


def _intervals(per_document: Mapping[str, Mapping[str, float]], seed: int) -> dict[str, Interval]:
    return {
        metric: bootstrap_interval(values, seed) for metric, values in sorted(per_document.items()) if values
    }
