"""One training run of a LensNet, from a version of a store to checkpoints and metrics in a run folder."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from mctrace.datasets.batches.document_embeddings import DocumentEmbeddings
from mctrace.datasets.batches.label_reader import TrainingData, open_training_data
from mctrace.datasets.batches.pair_reader import PreferenceData, open_preference_data
from mctrace.datasets.derived.derive import Derivation, recipe_rows
from mctrace.datasets.derived.recipe import find_recipe
from mctrace.datasets.sql.limits import SqlLimits
from mctrace.datasets.sql.target import Target
from mctrace.datasets.store.provenance import Mix
from mctrace.datasets.store.store import StoreVersion
from mctrace.errors import InputError
from mctrace.progress import Progress
from mctrace.train.checkpoints.lensnet_checkpoint import CheckpointInfo, describe, load_checkpoint
from mctrace.train.checkpoints.retention import step_folders
from mctrace.train.config import TrainConfig
from mctrace.train.data_parallel import ProcessGroup
from mctrace.train.device import resolve_device
from mctrace.train.evaluation.split_evaluation import evaluate_network
from mctrace.train.loop.data_loader import TrainingSource, prefetch
from mctrace.train.loop.divergence_dump import dump_diverged_batch
from mctrace.train.loop.lens_debug import LensDebugLog
from mctrace.train.loop.lensnet_training import LensNetTraining, checkpoint_writer
from mctrace.train.loop.optimisation_steps import DivergenceError, Step
from mctrace.train.loop.sign_alert import SignAlert
from mctrace.train.loop.stop_signals import stop_signals
from mctrace.train.loop.telemetry import JsonlSink, Sink, TensorBoardSink, TrackioSink, WandbSink
from mctrace.train.loop.training_loop import TrainingResult
from mctrace.train.networks.lensnet import LensNet
from mctrace.train.networks.registry import build_network
from mctrace.train.objectives.lensnet_gradients import ScoredExamples
from mctrace.train.run_files import LENS_DEBUG_FILE, METRICS_FILE, TENSORBOARD_FOLDER


@dataclass(frozen=True)
class StoppedRun:
    """A run that was stopped: its last step checkpoint, from which it can resume."""

    checkpoint: Path
    info: CheckpointInfo


def find_stopped_run(out: Path) -> StoppedRun | None:
    """The run to resume in the folder `out`; None where there is no step checkpoint."""
    folders = step_folders(out)
    return StoppedRun(folders[-1], load_checkpoint(folders[-1])[1]) if folders else None


@dataclass(frozen=True)
class TrainingRun:
    """A run about to start or to resume: its data, its run folder and its description."""

    config: TrainConfig
    source: TrainingSource
    info: CheckpointInfo
    out: Path
    workers: ProcessGroup
    stopped: StoppedRun | None = None
    """checkpoint that the run resumes from; None at its start"""

    @classmethod
    def of(
        cls,
        config: TrainConfig,
        store: StoreVersion,
        store_uri: str,
        out: Path,
        *,
        mix: Collection[Mix] = (),
        workers: ProcessGroup | None = None,
        stopped: StoppedRun | None = None,
        limits: SqlLimits | None = None,
    ) -> "TrainingRun":
        """Open the labels and pairs that the objective learns from.

        `store_uri` is recorded in the checkpoints as given; `limits` are of the memory and disk of SQL.
        Raises InputError when the store lacks the data, ConfigError for a device that is not there.
        """
        resolve_device(config.device)
        workers = workers or ProcessGroup()
        open_labels = partial(
            open_training_data,
            store,
            config.target,
            where=config.where,
            mix=mix,
            limits=limits,
            once_per_machine=workers.once_per_machine,
        )
        open_pairs = partial(
            open_preference_data,
            store,
            max_pairs=config.objective.preference.max_pairs,
            hard_negative_share=config.objective.preference.hard_negative_share,
            both=config.objective.preference.compared == "both",
            where=config.pairs_where,
            mix=mix,
            limits=limits,
            once_per_machine=workers.once_per_machine,
        )
        source = open_source(store, config, open_labels, open_pairs)
        info = _describe(config, store, store_uri, source, open_labels)
        return cls(config, source, info, out, workers, stopped)

    def train(
        self,
        progress: Progress,
        *,
        notify: Callable[[str], None],
        alert: Callable[[str], None],
    ) -> TrainingResult:
        """Train on the train split, validate on the validation split, leave checkpoints in `out`.

        SIGTERM and Ctrl-C save and end the run. `notify` receives sentences about resuming and stopping,
        `alert` those about scores of the wrong sign. Raises DivergenceError at a loss that is not finite; the
        batch and the weights before it are kept in `out`.
        """
        training = LensNetTraining.of(self._network(), self.config, self.workers)
        if self.stopped:
            training.state.restore(self.stopped.checkpoint, self.workers)
            notify(f"Going on after step {training.state.loop.step}")
        done = training.state.loop.step
        save = checkpoint_writer(
            self.out, training.network, self.info, self.config.keep_last,
            state=training.state, workers=self.workers, earlier=step_folders(self.out) if done else (),
        )  # fmt: skip
        with (
            stop_signals(notify) as should_stop,
            self._sinks(done, alert) as sinks,
            prefetch(self.source.steps(self.config, self.workers, done)) as batches,
        ):
            progress.start("training", self.config.optimiser.total_steps, "steps")
            progress.advance(done)
            try:
                return training.run(
                    batches,
                    evaluate=self._validation(training),
                    save=save,
                    sinks=sinks,
                    progress=partial(_show, progress),
                    should_stop=should_stop,
                    debug=self._debug(notify),
                )
            except DivergenceError as error:
                if error.batch is None:
                    raise
                batch = cast("Any", error.batch)
                kept = dump_diverged_batch(self.out, training.network, batch, self.workers.rank)
                raise DivergenceError(f"{error} The batch and the weights before it are in {kept}") from error
            finally:
                progress.stop()

    def _network(self) -> LensNet:
        if self.stopped is not None:
            return load_checkpoint(self.stopped.checkpoint)[0]
        return build_network(
            self.info.network,
            self.info.embedding_dim,
            absence=self.info.absence,
            price=self.info.has_price,
            seed=self.config.seed,
        )

    def _validation(self, training: LensNetTraining) -> Callable[[LensNet], Mapping[str, float]]:
        objective = self.config.objective
        evaluation_state = self.source.evaluation_state("validation", objective.preference)

        def validate(network: LensNet) -> Mapping[str, float]:
            examples = self.source.validation("validation", self.config.batch_size)
            bfloat16 = training.step.bfloat16
            return evaluate_network(
                network, examples, objective, evaluation_state, bfloat16=bfloat16
            ).scalars()

        return validate

    def _debug(self, show: Callable[[str], None]) -> Callable[[int, ScoredExamples | None], None] | None:
        lines, maps = self.config.log_lens_debug, self.config.log_maps
        if not lines and not maps:
            return None
        return LensDebugLog(self.out / LENS_DEBUG_FILE, show, lines=lines, maps=maps).write

    @contextmanager
    def _sinks(self, done: int, alert: Callable[[str], None]) -> Iterator[list[Sink]]:
        """Telemetry of the first worker; the others write none."""
        if not self.workers.is_first:
            yield []
            return
        after = done or None
        with ExitStack() as open_sinks:
            sinks: list[Sink] = [
                open_sinks.enter_context(JsonlSink(self.out / METRICS_FILE, after_step=after)),
                open_sinks.enter_context(TensorBoardSink(self.out / TENSORBOARD_FOLDER, after_step=after)),
                SignAlert(alert, self.config.alert_evaluations, self.config.alert_below),
            ]
            if self.config.wandb != "off":
                sink = WandbSink(self.out, self.config.wandb, asdict(self.config), resume=bool(done))
                sinks.append(open_sinks.enter_context(sink))
            if self.config.trackio:
                sinks.append(open_sinks.enter_context(TrackioSink(self.out, asdict(self.config))))
            yield sinks


OpenLabels = Callable[..., TrainingData]
"""`open_training_data` of a run's store, target and selection"""


def open_source(
    store: StoreVersion,
    config: TrainConfig,
    open_labels: OpenLabels,
    open_pairs: Callable[[], PreferenceData],
) -> TrainingSource:
    """Labels and pairs that the objective learns from, at one version of the store.

    Raises InputError when the store lacks them.
    """
    objective = config.objective
    labels = None
    if objective.learns_labels:
        augmented = partial(_augmented_rows, store, config) if config.augment else None
        labels = open_labels(make_rows=augmented)
    pairs = open_pairs() if objective.learns_pairs else None
    if labels and pairs and labels.provenance != pairs.arrays.provenance:
        raise InputError(
            f"labels and pairs of {store.location.uri} are of different base models, GistNets or trees: "
            "choose those of one kind with --where and train.pairs_where"
        )
    if labels and pairs and not labels.target.signed and not labels.target.learns_price:
        raise InputError(
            f"train.objective.name is mixed, and the target {config.target} gives values of detail without a "
            "price: pairs teach by a score's sign. Give --target value_and_price or priced"
        )
    if labels and labels.target.learns_price and objective.budget == "specification":
        raise InputError(
            "train.objective.budget is specification, whose sums mix tokens with positions and cannot teach "
            f"the price that the target {config.target} asks for. Give --target priced or literal"
        )
    for split in ("train", "validation"):  # an empty one is an error now, not after the first steps
        if labels:
            labels.snapshots(split)
        if pairs:
            pairs.comparisons(split)
    return TrainingSource(labels, pairs, config.network.match_words)


def _augmented_rows(store: StoreVersion, config: TrainConfig, folder: Path) -> dict[str, Path]:
    """Rows of the recipe `augment`, by table. Raises InputError for one that makes no labels."""
    table, file = recipe_rows(store, Derivation(find_recipe(config.augment), config.seed), folder)
    if table != "derived_labels":
        raise InputError(
            f"train.augment: the recipe {config.augment} gives pairs of variants; one that gives labels is "
            "needed (mctrace derive keeps pairs as a dataset)"
        )
    return {table: file}


def _describe(
    config: TrainConfig,
    store: StoreVersion,
    store_uri: str,
    source: TrainingSource,
    open_labels: OpenLabels,
) -> CheckpointInfo:
    arrays = _arrays(source)
    return describe(
        config,
        embedding_dim=arrays.embedding_dim,
        block_size=arrays.provenance.block_size,
        max_level=arrays.provenance.max_level,
        absence=source.absence,
        gist_positions=arrays.provenance.gist_positions,
        utility_scale=_utility_scale(source.labels, open_labels),
        dataset={
            "uri": store_uri,
            "version": store.version,
            **({"derived": store.dataset} if store.dataset else {}),
            **arrays.provenance.columns,
        },
        target_sql=Target.named(config.target).sql,
    )


def _arrays(source: TrainingSource) -> DocumentEmbeddings:
    data = source.labels or source.pairs
    assert data is not None, "an objective learns from labels, from pairs or from both"
    return data.arrays


def _utility_scale(labels: TrainingData | None, open_labels: OpenLabels) -> float:
    """Scale of the labels [nats per score unit], learned from or not.

    1 where the store has pairs only, whose scores have no unit.
    """
    if labels is not None:
        return labels.utility_scale
    try:
        return open_labels().utility_scale
    except InputError:
        return 1.0


def _show(progress: Progress, step: Step) -> None:
    progress.advance(1, f"loss {step.values['loss']:.4f}")
