"""A LensNet's training: network, objective, optimiser and resume state, assembled for the training loop.

One seed determines the initial weights, the order of the data and dropout. A run on one device is therefore
reproducible, and a resumed run ends in the same weights as an uninterrupted one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mctrace.train.checkpoints.lensnet_checkpoint import CheckpointInfo, save_checkpoint
from mctrace.train.checkpoints.retention import BEST, Save, keep_best_and_last
from mctrace.train.config import TrainConfig
from mctrace.train.data_parallel import ProcessGroup
from mctrace.train.device import resolve_device, uses_bfloat16
from mctrace.train.loop.diagnostics import batch_diagnostics
from mctrace.train.loop.optimisation_steps import Step, make_optimiser, optimisation_steps
from mctrace.train.loop.resume_state import ResumeState
from mctrace.train.loop.telemetry import Sink, Value, no_progress
from mctrace.train.loop.training_loop import LoopState, TrainingResult, run_training_loop
from mctrace.train.networks.compiled import compiled_network
from mctrace.train.networks.lensnet import LensNet
from mctrace.train.objectives.lensnet_gradients import Examples, LensNetGradients, ScoredExamples

_SEEDS_PER_WORKER = 1_000_003
"""between the seeds of two workers, so that their dropout masks differ"""


@dataclass(frozen=True)
class LensNetTraining:
    """A network ready to be trained or resumed, with everything that training changes."""

    config: TrainConfig
    network: LensNet
    step: LensNetGradients
    state: ResumeState
    workers: ProcessGroup

    @classmethod
    def of(
        cls, network: LensNet, config: TrainConfig, workers: ProcessGroup | None = None
    ) -> "LensNetTraining":
        """Move the network to its device and seed torch's global generator."""
        workers = workers or ProcessGroup()
        device = resolve_device(config.device)
        network.to(device)
        torch.manual_seed(config.seed + _SEEDS_PER_WORKER * workers.rank)
        step = LensNetGradients(
            network,
            config.objective,
            bfloat16=uses_bfloat16(config.precision, device),
            compiled=compiled_network(network) if config.compile else None,
            workers=workers,
        )
        state = ResumeState(network, make_optimiser(network, config.optimiser), step.state, LoopState())
        return cls(config, network, step, state, workers)

    def run(
        self,
        batches: Iterator[Sequence[Examples]],
        *,
        evaluate: Callable[[LensNet], Mapping[str, float]],
        save: Save,
        sinks: Sequence[Sink] = (),
        progress: Callable[[Step], None] = no_progress,
        should_stop: Callable[[], bool] = lambda: False,
        debug: Callable[[int, ScoredExamples | None], None] | None = None,
    ) -> TrainingResult:
        """Train from the current state to the last step.

        `batches` yields this worker's parts of each batch, from the next step on. The first worker evaluates
        and broadcasts the values. Every worker asks `should_stop`; one that answers True stops all. The first
        worker's `debug` receives the step and the last batch with its scores at each telemetry line. Raises
        what `optimisation_steps` and `run_training_loop` raise.
        """
        steps = optimisation_steps(
            self.network,
            batches,
            self.step,
            self.config.optimiser,
            self.state.optimiser,
            parts=self.network.parts(),
            done=self.state.loop.step,
        )
        return run_training_loop(
            steps,
            self.config,
            evaluate=lambda: self._evaluate_on_first(evaluate),
            save=save,
            sinks=sinks,
            progress=progress,
            diagnose=lambda: self._diagnose(debug),
            state=self.state.loop,
            patience=self.config.patience,
            criterion=self._criterion,
            should_stop=lambda: self.workers.any(should_stop()),
        )

    def _criterion(self, validation: Mapping[str, float]) -> float:
        """What the best checkpoint has least of: the loss, of values with a price that of the values."""
        if self.network.price_head is None or self.config.objective.learns_pairs:
            return validation["loss"]
        return validation["L_reg"] + self.config.objective.rank_weight * validation["L_rank"]

    def _diagnose(self, debug: Callable[[int, ScoredExamples | None], None] | None) -> Mapping[str, Value]:
        if not self.workers.is_first:
            return {}
        if debug is not None:
            debug(self.state.loop.step, self.step.last)
        return batch_diagnostics(self.step.last)

    def _evaluate_on_first(self, evaluate: Callable[[LensNet], Mapping[str, float]]) -> Mapping[str, float]:
        values = dict(evaluate(self.network)) if self.workers.is_first else {}
        return self.workers.broadcast_first(values)


def checkpoint_writer(
    root: Path,
    network: LensNet,
    info: CheckpointInfo,
    keep_last: int,
    *,
    state: ResumeState | None = None,
    workers: ProcessGroup | None = None,
    earlier: Sequence[Path] = (),
) -> Save:
    """The `save` of a LensNet run: writes `root/<name>`, keeps `best` and the last `keep_last` others.

    With `state` the others hold the resume state too. Collective: every worker must call it, the first one
    writes. `earlier` are the checkpoints that the run left before it was interrupted.
    """
    workers = workers or ProcessGroup()
    tensors: dict[str, torch.Tensor] = {}

    def write_state(folder: Path) -> None:
        if state is not None and tensors:
            state.write(folder, tensors)

    def write(folder: Path, step: int, metrics: Mapping[str, float]) -> None:
        save_checkpoint(folder, network, replace(info, step=step, metrics=dict(metrics) or None), write_state)

    keep = keep_best_and_last(root, write, keep_last, earlier) if workers.is_first else None

    def save(name: str, step: int, metrics: Mapping[str, float]) -> None:
        tensors.clear()
        if state is not None and name != BEST:
            tensors.update(state.tensors(workers))
        if keep is not None:
            keep(name, step, metrics)

    return save
