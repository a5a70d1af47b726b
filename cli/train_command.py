"""`mctrace train`: a store in, checkpoints out. No base model."""

import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from mctrace.cli.config import PipelineConfig
from mctrace.cli.earlier_run import CONFIG_FILE, EarlierRun, find_earlier_run
from mctrace.cli.progress import make_progress
from mctrace.cli.reading import open_version
from mctrace.cli.stopping import asked_to_stop
from mctrace.datasets.batches.document_embeddings import DocumentEmbeddings
from mctrace.datasets.batches.label_reader import TrainingData, open_training_data
from mctrace.datasets.batches.pair_reader import open_preference_data
from mctrace.datasets.sql.target import Target
from mctrace.datasets.store.provenance import Mix
from mctrace.datasets.store.store import StoreVersion
from mctrace.errors import InputError
from mctrace.progress import Progress, Silent
from mctrace.train.checkpoints.lensnet_checkpoint import CheckpointInfo, describe, load_checkpoint
from mctrace.train.checkpoints.retention import BEST, step_folders
from mctrace.train.config import TrainConfig
from mctrace.train.data_parallel import ProcessGroup, process_group
from mctrace.train.evaluation.split_evaluation import evaluate_network
from mctrace.train.loop.data_loader import TrainingSource, prefetch
from mctrace.train.loop.divergence_dump import dump_diverged_batch
from mctrace.train.loop.lensnet_training import LensNetTraining, checkpoint_writer
from mctrace.train.loop.optimisation_steps import DivergenceError, Step
from mctrace.train.loop.sign_alert import SignAlert
from mctrace.train.loop.telemetry import JsonlSink, Sink, TensorBoardSink, WandbSink
from mctrace.train.loop.training_loop import TrainingResult
from mctrace.train.networks.lensnet import LensNet
from mctrace.train.networks.registry import build_network
from mctrace.train.run_files import METRICS_FILE, TENSORBOARD_FOLDER


def train_run(
    config: PipelineConfig,
    version: int | None,
    out: Path,
    *,
    overwrite: bool,
    resume: bool = False,
    console: Console,
    dataset: str | None = None,
) -> TrainingResult:
    """Trains on the train split, validates on the validation split, leaves checkpoints in `out`.

    With `resume` a run that is in `out` goes on from its last step checkpoint, under its own configuration
    and on its own version and dataset of the store; where there is none, a run begins.
    """
    with process_group() as workers:
        console = console if workers.is_first else Console(quiet=True)
        earlier = find_earlier_run(out, config, console) if resume else None
        if earlier:
            config, version = earlier.config, earlier.info.dataset_version
            dataset = earlier.info.derived_dataset
        store = open_version(config.store, version, dataset)
        source = open_source(store, config.train, config.store.mix)
        info = _describe(config, store, source)
        if earlier is None and workers.is_first:
            claim_run_folder(out, config, overwrite=overwrite or resume)
        workers.broadcast_first(None)  # nobody writes before the folder is claimed
        _say_what_is_learned(config.train, store, source, info, console)
        training = LensNetTraining.of(_network(info, config.train, earlier), config.train, workers)
        if earlier:
            training.state.restore(earlier.folder, workers)
            console.print(f"Going on after step {training.state.loop.step}", highlight=False)
        result = _fit(training, source, info, out, console)
    _say_how_it_ended(result, config.train, out, console)
    return result


def _fit(
    training: LensNetTraining, source: TrainingSource, info: CheckpointInfo, out: Path, console: Console
) -> TrainingResult:
    config, workers, done = training.config, training.workers, training.state.loop.step
    progress: Progress = make_progress(console) if workers.is_first else Silent()
    save = checkpoint_writer(
        out, training.network, info, config.keep_last,
        state=training.state, workers=workers, earlier=step_folders(out) if done else (),
    )  # fmt: skip
    evaluation_state = source.evaluation_state("validation", config.objective.preference)

    def validate(network: LensNet) -> Mapping[str, float]:
        examples = source.validation("validation", config.batch_size)
        bfloat16 = training.step.bfloat16
        return evaluate_network(
            network, examples, config.objective, evaluation_state, bfloat16=bfloat16
        ).scalars()

    with (
        asked_to_stop(partial(console.print, highlight=False)) as should_stop,
        _sinks(config, out, done, console, workers) as sinks,
        prefetch(source.steps(config, workers, done)) as batches,
    ):
        progress.start("training", config.optimiser.total_steps, "steps")
        progress.advance(done)
        try:
            return training.run(
                batches,
                evaluate=validate,
                save=save,
                sinks=sinks,
                progress=partial(_show, progress),
                should_stop=should_stop,
            )
        except DivergenceError as error:
            if error.batch is None:
                raise
            batch = cast("Any", error.batch)
            kept = dump_diverged_batch(out, training.network, batch, workers.rank)
            raise DivergenceError(f"{error} The batch and the weights before it are in {kept}") from error
        finally:
            progress.stop()


def open_source(store: StoreVersion, config: TrainConfig, mix: Collection[Mix] = ()) -> TrainingSource:
    """What the objective learns from, at one version; raises InputError when it is not there."""
    objective = config.objective
    labels = None
    if objective.learns_labels:
        labels = open_training_data(store, config.target, where=config.where, mix=mix)
    pairs = None
    if objective.learns_pairs:
        pairs = open_preference_data(
            store,
            max_pairs=objective.preference.max_pairs,
            hard_negative_share=objective.preference.hard_negative_share,
            where=config.pairs_where,
            mix=mix,
        )
    if labels and pairs and labels.provenance != pairs.arrays.provenance:
        raise InputError(
            f"labels and pairs of {store.location.uri} are of different base models, GistNets or trees: "
            "choose those of one kind with --where and train.pairs_where"
        )
    if labels and pairs and not labels.target.signed:
        raise InputError(
            f"train.objective.name is mixed, and the target {config.target} gives values of detail: pairs "
            "teach by a score's sign. Give --target priced"
        )
    for split in ("train", "validation"):  # an empty one is an error now, not after the first steps
        if labels:
            labels.snapshots(split)
        if pairs:
            pairs.comparisons(split)
    return TrainingSource(labels, pairs)


def _describe(config: PipelineConfig, store: StoreVersion, source: TrainingSource) -> CheckpointInfo:
    arrays = _arrays(source)
    return describe(
        config.train,
        embedding_dim=arrays.embedding_dim,
        block_size=arrays.provenance.block_size,
        max_level=arrays.provenance.max_level,
        utility_scale=_utility_scale(config, store, source.labels),
        dataset={
            "uri": config.store.uri,
            "version": store.version,
            **({"derived": store.dataset} if store.dataset else {}),
            **asdict(arrays.provenance),
        },
        target_sql=Target.named(config.train.target).sql,
    )


def _arrays(source: TrainingSource) -> DocumentEmbeddings:
    data = source.labels or source.pairs
    assert data is not None, "an objective learns from labels, from pairs or from both"
    return data.arrays


def _utility_scale(config: PipelineConfig, store: StoreVersion, labels: TrainingData | None) -> float:
    """That of the labels, learned from or not; 1 where there are pairs only, whose scores have no unit."""
    if labels is not None:
        return labels.utility_scale
    try:
        return open_training_data(
            store, config.train.target, where=config.train.where, mix=config.store.mix
        ).utility_scale
    except InputError:
        return 1.0


def _network(info: CheckpointInfo, config: TrainConfig, earlier: EarlierRun | None) -> LensNet:
    if earlier is not None:
        return load_checkpoint(earlier.folder)[0]
    return build_network(info.network, info.embedding_dim, seed=config.seed)


@contextmanager
def _sinks(
    config: TrainConfig, out: Path, done: int, console: Console, workers: ProcessGroup
) -> Iterator[list[Sink]]:
    """Where telemetry goes; only the first worker's goes anywhere."""
    if not workers.is_first:
        yield []
        return
    after = done or None

    def warn(message: str) -> None:
        console.print(f"Alert: {message}", style="red", highlight=False)

    with ExitStack() as open_sinks:
        sinks: list[Sink] = [
            open_sinks.enter_context(JsonlSink(out / METRICS_FILE, after_step=after)),
            open_sinks.enter_context(TensorBoardSink(out / TENSORBOARD_FOLDER, after_step=after)),
            SignAlert(warn, config.alert_evaluations),
        ]
        if config.wandb != "off":
            sink = WandbSink(out, config.wandb, asdict(config), resume=bool(done))
            sinks.append(open_sinks.enter_context(sink))
        yield sinks


def claim_run_folder(out: Path, config: PipelineConfig, *, overwrite: bool) -> None:
    """Takes the run folder; raises InputError when an earlier run is in it and may not be replaced."""
    if (out / METRICS_FILE).exists():
        if not overwrite:
            raise InputError(f"{out} holds an earlier run: choose another --out, or --overwrite it")
        shutil.rmtree(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / CONFIG_FILE).write_text(config.to_json() + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"the run folder {out} cannot be made: {error.strerror}") from error


def _show(progress: Progress, step: Step) -> None:
    progress.advance(1, f"loss {step.values['loss']:.4f}")


def _say_what_is_learned(
    config: TrainConfig, store: StoreVersion, source: TrainingSource, info: CheckpointInfo, console: Console
) -> None:
    said = [f"Objective {config.objective.name!r} on version {store.version}"]
    if source.labels:
        data = source.labels
        counts = ", ".join(f"{len(data.snapshots(split))} {split}" for split in ("train", "validation"))
        dropped = f", {data.num_without_target} without a target" if data.num_without_target else ""
        said.append(
            f"target {data.target.name!r}: {counts} snapshots{dropped}; "
            f"1 score unit = {info.utility_scale:.4g} nats"
        )
    if source.pairs:
        pairs = source.pairs
        said += [
            f"{sum(len(c.others) for c in pairs.comparisons(split))} {split} pairs"
            for split in ("train", "validation")
        ]
    console.print("; ".join(said), highlight=False)


def _say_how_it_ended(result: TrainingResult, config: TrainConfig, out: Path, console: Console) -> None:
    total = config.optimiser.total_steps
    if result.ending == "stopped":
        console.print(
            f"Stopped after step {result.num_steps} of {total}; the same command with --resume goes on",
            highlight=False,
        )
    if result.ending == "early":
        console.print(f"No lower validation loss for {config.patience} evaluations", highlight=False)
    if result.best:
        console.print(
            f"Best at step {result.best_step} of {result.num_steps}: "
            + ", ".join(f"{name} {value:.4g}" for name, value in _headline(result.best).items())
            + f" on validation\nCheckpoint {out / BEST}; metrics {out / METRICS_FILE}, "
            + f"{out / TENSORBOARD_FOLDER}",
            highlight=False,
        )


def _headline(values: Mapping[str, float]) -> dict[str, float]:
    names = (
        "loss",
        "ranking_accuracy",
        "utility_correlation",
        "preference_agreement",
        "preference_corr_mean",
    )
    return {name: values[name] for name in names if name in values}
