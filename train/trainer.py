"""Training: batches in, telemetry and checkpoints out, for LensNet and for any other module.

The trainer knows no store, no file and no clock of its own: batches, evaluation, sinks and the checkpoint
writer are passed in.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from mctrace.context.errors import ConfigError
from mctrace.datasets.batch import Batch
from mctrace.train.config import Device, OptimiserConfig, TrainConfig
from mctrace.train.folders import BEST, Save
from mctrace.train.lensnet import LensNet
from mctrace.train.loop import DivergenceError, Step, optimise
from mctrace.train.losses import counterfactual_loss
from mctrace.train.telemetry import Sink, no_progress

T = TypeVar("T")
"""whatever the loss function calls a batch"""


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
    """validation values after the last step"""


def fit(
    network: LensNet,
    batches: Iterator[Batch],
    config: TrainConfig,
    *,
    evaluate: Callable[[LensNet], Mapping[str, float]],
    save: Save,
    sinks: Sequence[Sink] = (),
    progress: Callable[[Step], None] = no_progress,
) -> FitResult:
    """Train `network` in place on the counterfactual loss, as `fit_module` does.

    Seeds torch's global generator, so that a run on one device repeats itself.
    """
    torch.manual_seed(config.seed)
    device = resolve_device(config.device)
    network.to(device)

    def loss_fn(batch: Batch) -> tuple[Tensor, Mapping[str, float]]:
        batch = batch.to(device)
        terms = counterfactual_loss(network(batch), batch, config.objective)
        return terms.total, terms.scalars()

    return fit_module(
        network,
        batches,
        loss_fn,
        config,
        evaluate=lambda: evaluate(network),
        save=save,
        sinks=sinks,
        progress=progress,
    )


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
    """Train `module` in place for `schedule.optimiser.total_steps` batches.

    `evaluate` gives validation values with `loss` among them; the lowest loss is saved as `best`. `save(name,
    step, values)` writes a checkpoint with the validation values of that step, or with none. Raises what
    `optimise` raises, and DivergenceError at a validation loss that is not finite.
    """
    window: list[Step] = []
    best_step, best, validation = 0, dict[str, float](), dict[str, float]()
    for step in optimise(module, batches, loss_fn, schedule.optimiser):
        is_last = step.number == schedule.optimiser.total_steps
        validation = {}
        window.append(step)
        progress(step)
        if step.number % schedule.log_interval == 0 or is_last:
            _report(sinks, step.number, "train", summary(window))
            window = []
        if step.number % schedule.eval_interval == 0 or is_last:
            validation = _validate(evaluate, step.number)
            _report(sinks, step.number, "validation", validation)
            if validation["loss"] < best.get("loss", math.inf):
                best_step, best = step.number, validation
                save(BEST, step.number, validation)
        if step.number % schedule.save_interval == 0 or is_last:
            save(f"step_{step.number:07d}", step.number, validation)
    return FitResult(schedule.optimiser.total_steps, best_step, best, last=validation)


def summary(window: Sequence[Step]) -> dict[str, float]:
    """Means of the reported numbers and the gradient norm over some steps, the last `lr`, `steps_per_s`."""
    means = {name: sum(step.values[name] for step in window) / len(window) for name in window[0].values}
    return {
        **means,
        "grad_norm": sum(step.grad_norm for step in window) / len(window),
        "lr": window[-1].learning_rate,
        "steps_per_s": len(window) / max(sum(step.seconds for step in window), 1e-9),
    }


def resolve_device(device: Device) -> torch.device:
    """The device to train on; raises ConfigError when CUDA is asked for and there is none."""
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise ConfigError('train.device is "cuda" but torch sees no CUDA device; use "auto" or "cpu"')
    return torch.device("cuda" if has_cuda and device != "cpu" else "cpu")


def _validate(evaluate: Callable[[], Mapping[str, float]], step: int) -> dict[str, float]:
    values = dict(evaluate())
    if not math.isfinite(values["loss"]):
        raise DivergenceError(
            f"the validation loss at step {step} is {values['loss']}: look for labels that are not finite in "
            "the validation split"
        )
    return values


def _report(sinks: Sequence[Sink], step: int, split: str, values: Mapping[str, float]) -> None:
    for sink in sinks:
        sink.write(step, split, values)
