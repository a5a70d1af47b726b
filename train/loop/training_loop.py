"""Training loop around optimisation steps: telemetry, validation, checkpoints, early stopping.

Used by LensNet and GistNet alike. It has no store, file or clock of its own: the steps, the evaluation, the
telemetry sinks and the checkpoint writer are passed in.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Literal, Protocol, TypeVar

from torch import Tensor, nn

from mctrace.train.checkpoints.retention import BEST, STEP, Save
from mctrace.train.config import OptimiserConfig
from mctrace.train.loop.optimisation_steps import DivergenceError, Step, gradients_of, optimisation_steps
from mctrace.train.loop.telemetry import Sink, Value, no_progress

T = TypeVar("T")
"""type of a batch"""

Ending = Literal["finished", "early", "stopped"]
"""all steps taken; early stopping (patience exhausted); stopped on request"""


class Schedule(Protocol):
    """Length of a run, and its intervals (in steps) of telemetry, validation and checkpoints."""

    @property
    def optimiser(self) -> OptimiserConfig: ...

    @property
    def log_interval(self) -> int: ...

    @property
    def eval_interval(self) -> int: ...

    @property
    def save_interval(self) -> int: ...


@dataclass(frozen=True)
class TrainingResult:
    """Outcome of a training run."""

    num_steps: int
    best_step: int
    """step of the lowest validation loss"""
    best: Mapping[str, float]
    """validation values at `best_step`"""
    last: Mapping[str, float]
    """validation values after the last step; empty when training was stopped between evaluations"""
    ending: Ending = "finished"


@dataclass
class LoopState:
    """Position of a run between two steps, as a checkpoint keeps it for resuming."""

    step: int = 0
    best_step: int = 0
    best: dict[str, float] = field(default_factory=dict)
    num_worse: int = 0
    """evaluations since the best one"""
    window: list[Step] = field(default_factory=list)
    """steps since the last telemetry line"""


def train_module(
    module: nn.Module,
    batches: Iterator[T],
    loss_fn: Callable[[T], tuple[Tensor, Mapping[str, float]]],
    schedule: Schedule,
    *,
    evaluate: Callable[[], Mapping[str, float]],
    save: Save,
    sinks: Sequence[Sink] = (),
    progress: Callable[[Step], None] = no_progress,
) -> TrainingResult:
    """Train `module` in place for `schedule.optimiser.total_steps` batches; see `run_training_loop`."""
    steps = optimisation_steps(module, batches, gradients_of(loss_fn), schedule.optimiser)
    return run_training_loop(steps, schedule, evaluate=evaluate, save=save, sinks=sinks, progress=progress)


def run_training_loop(
    steps: Iterator[Step],
    schedule: Schedule,
    *,
    evaluate: Callable[[], Mapping[str, float]],
    save: Save,
    sinks: Sequence[Sink] = (),
    progress: Callable[[Step], None] = no_progress,
    diagnose: Callable[[], Mapping[str, Value]] = dict,
    state: LoopState | None = None,
    patience: int = 0,
    criterion: Callable[[Mapping[str, float]], float] = itemgetter("loss"),
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainingResult:
    """Consume `steps`, and report, validate and save at the intervals of `schedule`.

    Args:
        evaluate: gives validation values, `loss` among them.
        save: `save(name, step, values)` writes a checkpoint with the validation values of that step, if any;
            `state` is up to date when it is called.
        diagnose: gives further values for training telemetry lines.
        patience: evaluations in a row without a lower criterion after which training ends; 0: never.
        criterion: of validation values; those with the lowest one are saved as `best`.
        should_stop: asked after each step; True saves and ends the run.

    Raises whatever `steps` raises, and DivergenceError at a validation loss that is not finite.
    """
    state = LoopState() if state is None else state
    total_steps = schedule.optimiser.total_steps
    ending: Ending = "finished"
    validation: dict[str, float] = {}
    for step in steps:
        state.step = step.number
        state.window.append(step)
        progress(step)
        stop_requested = should_stop()
        is_last, validation = step.number == total_steps, {}
        if step.number % schedule.log_interval == 0 or is_last:
            _report(sinks, step.number, "train", {**telemetry_of_steps(state.window), **diagnose()})
            state.window.clear()
        if step.number % schedule.eval_interval == 0 or is_last:
            validation = _validate(evaluate, step.number)
            _report(sinks, step.number, "validation", validation)
            _note_validation(state, validation, criterion, save)
            if patience and state.num_worse >= patience and not is_last:
                ending = "early"
        if stop_requested and not is_last:
            ending = "stopped"
        if step.number % schedule.save_interval == 0 or is_last or ending != "finished":
            save(f"{STEP}{step.number:07d}", step.number, validation)
        if ending != "finished":
            break
    return TrainingResult(state.step, state.best_step, state.best, last=validation, ending=ending)


def telemetry_of_steps(window: Sequence[Step]) -> dict[str, float]:
    """Means of the reported numbers and of the gradient norm over some steps, the last `lr`, `steps_per_s`.

    `grad_norm_max` is the largest gradient norm, `read_share` the share of time spent waiting for data.
    """
    means = {name: sum(step.values[name] for step in window) / len(window) for name in window[0].values}
    seconds = max(sum(step.seconds for step in window), 1e-9)
    return {
        **means,
        "grad_norm": sum(step.grad_norm for step in window) / len(window),
        "grad_norm_max": max(step.grad_norm for step in window),
        "lr": window[-1].learning_rate,
        "steps_per_s": len(window) / seconds,
        "read_share": sum(step.read_seconds for step in window) / seconds,
    }


def _note_validation(
    state: LoopState,
    validation: dict[str, float],
    criterion: Callable[[Mapping[str, float]], float],
    save: Save,
) -> None:
    if not state.best or criterion(validation) < criterion(state.best):
        state.best_step, state.best, state.num_worse = state.step, validation, 0
        save(BEST, state.step, validation)
    else:
        state.num_worse += 1


def _validate(evaluate: Callable[[], Mapping[str, float]], step: int) -> dict[str, float]:
    values = dict(evaluate())
    if not math.isfinite(values["loss"]):
        raise DivergenceError(
            f"the validation loss at step {step} is {values['loss']}: look for labels that are not finite in "
            "the validation split"
        )
    return values


def _report(sinks: Sequence[Sink], step: int, split: str, values: Mapping[str, Value]) -> None:
    for sink in sinks:
        sink.write(step, split, values)
