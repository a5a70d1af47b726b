"""What happens between steps: telemetry, validation, checkpoints, and when to stop.

The trainer knows no store, no file and no clock of its own: steps, evaluation, sinks and the checkpoint
writer are passed in.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from mctrace.errors import ConfigError
from mctrace.train.config import Device, OptimiserConfig, Precision
from mctrace.train.loop.checkpoint_folders import BEST, STEP, Save
from mctrace.train.loop.optimisation import DivergenceError, Step, optimise
from mctrace.train.loop.telemetry import Sink, Value, no_progress

T = TypeVar("T")
"""whatever the loss function calls a batch"""

Ending = Literal["finished", "early", "stopped"]
"""all steps taken; no better validation loss for long enough; told to stop"""


class Schedule(Protocol):
    """How long a run is, and after how many steps it reports, validates and saves."""

    @property
    def optimiser(self) -> OptimiserConfig: ...

    @property
    def log_interval(self) -> int: ...

    @property
    def eval_interval(self) -> int: ...

    @property
    def save_interval(self) -> int: ...


@dataclass(frozen=True)
class FitResult:
    """How a training run ended."""

    num_steps: int
    best_step: int
    """the step with the lowest validation loss"""
    best: Mapping[str, float]
    """validation values there"""
    last: Mapping[str, float]
    """validation values after the last step; empty where training was stopped between evaluations"""
    ending: Ending = "finished"


@dataclass
class FitState:
    """Where a run is, between two steps: what a checkpoint keeps so that the run can go on from it."""

    step: int = 0
    best_step: int = 0
    best: dict[str, float] = field(default_factory=dict)
    num_worse: int = 0
    """evaluations since the best one"""
    window: list[Step] = field(default_factory=list)
    """steps since the last line of telemetry"""


def fit_module(
    module: nn.Module,
    batches: Iterator[T],
    loss_fn: Callable[[T], tuple[Tensor, Mapping[str, float]]],
    schedule: Schedule,
    *,
    evaluate: Callable[[], Mapping[str, float]],
    save: Save,
    sinks: Sequence[Sink] = (),
    progress: Callable[[Step], None] = no_progress,
) -> FitResult:
    """Train `module` in place for `schedule.optimiser.total_steps` batches; see `follow`."""
    steps = optimise(module, batches, loss_fn, schedule.optimiser)
    return follow(steps, schedule, evaluate=evaluate, save=save, sinks=sinks, progress=progress)


def follow(
    steps: Iterator[Step],
    schedule: Schedule,
    *,
    evaluate: Callable[[], Mapping[str, float]],
    save: Save,
    sinks: Sequence[Sink] = (),
    progress: Callable[[Step], None] = no_progress,
    diagnose: Callable[[], Mapping[str, Value]] = dict,
    state: FitState | None = None,
    patience: int = 0,
    should_stop: Callable[[], bool] = lambda: False,
) -> FitResult:
    """Report, validate and save while `steps` are taken, which is what takes them.

    `evaluate` gives validation values with `loss` among them; the lowest loss is saved as `best`, and after
    `patience` evaluations without a lower one (0: never) training ends. `save(name, step, values)` writes a
    checkpoint with the validation values of that step, or with none; `state` is up to date when it is called.
    `diagnose` adds to the lines of telemetry. `should_stop` is asked after each step. Raises what `steps`
    raises, and DivergenceError at a validation loss that is not finite.
    """
    state = FitState() if state is None else state
    total_steps = schedule.optimiser.total_steps
    ending: Ending = "finished"
    validation: dict[str, float] = {}
    for step in steps:
        state.step = step.number
        state.window.append(step)
        progress(step)
        told = should_stop()
        is_last, validation = step.number == total_steps, {}
        if step.number % schedule.log_interval == 0 or is_last:
            _report(sinks, step.number, "train", {**summary(state.window), **diagnose()})
            state.window.clear()
        if step.number % schedule.eval_interval == 0 or is_last:
            validation = _validate(evaluate, step.number)
            _report(sinks, step.number, "validation", validation)
            _note_validation(state, validation, save)
            if patience and state.num_worse >= patience and not is_last:
                ending = "early"
        if told and not is_last:
            ending = "stopped"
        if step.number % schedule.save_interval == 0 or is_last or ending != "finished":
            save(f"{STEP}{step.number:07d}", step.number, validation)
        if ending != "finished":
            break
    return FitResult(state.step, state.best_step, state.best, last=validation, ending=ending)


def summary(window: Sequence[Step]) -> dict[str, float]:
    """Means of the reported numbers and the gradient norm over some steps, the last `lr`, `steps_per_s`.

    `grad_norm_max` is the largest gradient norm, `read_share` the share of the time spent waiting for data.
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


def resolve_device(device: Device) -> torch.device:
    """The device to train on; raises ConfigError when CUDA is asked for and there is none."""
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise ConfigError('train.device is "cuda" but torch sees no CUDA device; use "auto" or "cpu"')
    return torch.device("cuda" if has_cuda and device != "cpu" else "cpu")


def uses_bfloat16(precision: Precision, device: torch.device) -> bool:
    """Whether a network computes in bfloat16 under `precision` on `device`."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return precision == "bfloat16"


def _note_validation(state: FitState, validation: dict[str, float], save: Save) -> None:
    if validation["loss"] < state.best.get("loss", math.inf):
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
