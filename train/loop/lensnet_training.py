"""Training a LensNet: the network, its objective and its data put together into steps.

One seed decides the weights at the start, the order of the data and dropout, so that a run on one device
repeats itself, and one that was stopped goes on to the very same weights.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from mctrace.train.config import TrainConfig
from mctrace.train.distribution import Workers
from mctrace.train.loop.checkpoint_folders import Save
from mctrace.train.loop.diagnostics import diagnose
from mctrace.train.loop.optimisation import Step, descend, make_optimiser
from mctrace.train.loop.telemetry import Sink, no_progress
from mctrace.train.loop.trainer import FitResult, FitState, follow, resolve_device, uses_bfloat16
from mctrace.train.loop.training_state import TrainingState
from mctrace.train.networks.lensnet import LensNet
from mctrace.train.objectives.gradients import Examples, LensNetStep

_SEEDS_PER_WORKER = 1_000_003
"""between the seeds of two workers, so that each drops out something else"""


@dataclass(frozen=True)
class Training:
    """A network about to be trained, or to go on, and everything that changes on the way."""

    config: TrainConfig
    network: LensNet
    step: LensNetStep
    state: TrainingState
    workers: Workers

    @classmethod
    def of(cls, network: LensNet, config: TrainConfig, workers: Workers | None = None) -> "Training":
        """Moves the network to its device and seeds torch's global generator."""
        workers = workers or Workers()
        device = resolve_device(config.device)
        network.to(device)
        torch.manual_seed(config.seed + _SEEDS_PER_WORKER * workers.rank)
        step = LensNetStep(
            network,
            config.objective,
            bfloat16=uses_bfloat16(config.precision, device),
            workers=workers,
        )
        state = TrainingState(network, make_optimiser(network, config.optimiser), step.state, FitState())
        return cls(config, network, step, state, workers)

    def fit(
        self,
        batches: Iterator[Sequence[Examples]],
        *,
        evaluate: Callable[[LensNet], Mapping[str, float]],
        save: Save,
        sinks: Sequence[Sink] = (),
        progress: Callable[[Step], None] = no_progress,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> FitResult:
        """Train from where the state is to the end.

        `batches` gives each coming step this worker's parts of its batch. The first worker evaluates and
        tells the others; each of them asks `should_stop`, and any may stop all. Raises what `descend` and
        `follow` raise.
        """
        steps = descend(
            self.network,
            batches,
            self.step,
            self.config.optimiser,
            self.state.optimiser,
            done=self.state.fit.step,
        )
        return follow(
            steps,
            self.config,
            evaluate=lambda: self._evaluated_once(evaluate),
            save=save,
            sinks=sinks,
            progress=progress,
            diagnose=lambda: diagnose(self.step.last) if self.workers.is_first else {},
            state=self.state.fit,
            patience=self.config.patience,
            should_stop=lambda: self.workers.any(should_stop()),
        )

    def _evaluated_once(self, evaluate: Callable[[LensNet], Mapping[str, float]]) -> Mapping[str, float]:
        values = dict(evaluate(self.network)) if self.workers.is_first else {}
        return self.workers.from_first(values)
