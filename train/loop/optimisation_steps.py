"""The one optimisation loop, for any module and any loss: LensNet, GistNet and its pretraining all use it.

A generator of finished steps. What happens between them (telemetry, validation, checkpoints, stopping) is the
caller's `for` loop: `training_loop.py`.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from mctrace.errors import InputError, MctraceError
from mctrace.train.config import OptimiserConfig

T = TypeVar("T")
"""type of a batch"""


class DivergenceError(MctraceError, ArithmeticError):
    """The loss or its gradient is not finite, so training cannot continue."""

    def __init__(self, message: str, batch: object = None) -> None:
        super().__init__(message)
        self.batch = batch
        """the batch of that step, for inspection; None for a validation loss"""


@dataclass(frozen=True)
class Step:
    """One finished optimisation step."""

    number: int
    """counted from 1"""
    values: Mapping[str, float]
    """numbers reported for the batch, `loss` among them"""
    grad_norm: float
    """global norm before clipping"""
    learning_rate: float
    seconds: float
    """duration of the step: includes waiting for its batch, excludes the caller's work between steps"""
    read_seconds: float = 0.0
    """part of `seconds` spent waiting for the batch"""


def gradients_of(
    loss_fn: Callable[[T], tuple[Tensor, Mapping[str, float]]],
) -> Callable[[T], Mapping[str, float]]:
    """The `compute_gradients` of a plain loss function.

    `loss_fn` returns the scalar to minimise and the numbers to report, `loss` among them.
    """

    def compute_gradients(batch: T) -> Mapping[str, float]:
        loss, values = loss_fn(batch)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return values

    return compute_gradients


def make_optimiser(module: nn.Module, config: OptimiserConfig) -> torch.optim.AdamW:
    """AdamW over all parameters of `module`; the learning rate is set at each step."""
    return torch.optim.AdamW(
        module.parameters(),
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )


def optimisation_steps(
    module: nn.Module,
    batches: Iterator[T],
    compute_gradients: Callable[[T], Mapping[str, float]],
    config: OptimiserConfig,
    optimiser: torch.optim.Optimizer | None = None,
    *,
    parts: Sequence[Sequence[nn.Parameter]] | None = None,
    done: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Step]:
    """Take the steps after the first `done` of `config.total_steps`, one batch each, yielding after each.

    `compute_gradients` leaves a batch's gradient in the module's parameters and returns the numbers to
    report, `loss` among them. `optimiser` is a fresh AdamW unless given. The gradient of each of `parts` is
    clipped by itself, so that a part is trained beside another as it would be alone; unless given, all
    parameters are one part.

    Raises:
        InputError: the batches end before the last step.
        DivergenceError: a loss or gradient is not finite; raised before it reaches the weights.
    """
    optimiser = make_optimiser(module, config) if optimiser is None else optimiser
    for number in range(done + 1, config.total_steps + 1):
        started = clock()
        batch = _next(batches, number, config.total_steps)
        read = clock()
        rate = learning_rate(config, number)
        for group in optimiser.param_groups:
            group["lr"] = rate
        module.train()
        optimiser.zero_grad(set_to_none=True)
        values = compute_gradients(batch)
        grad_norm = _clip([[*module.parameters()]] if parts is None else parts, config.gradient_clip)
        _check_finite(number, values, grad_norm, batch)
        optimiser.step()
        yield Step(number, values, grad_norm, rate, clock() - started, read - started)


def _clip(parts: Sequence[Sequence[nn.Parameter]], most: float) -> float:
    """Scale the gradient of each part to a norm of `most` at most; returns that of all together before."""
    norms = [nn.utils.clip_grad_norm_(part, most) for part in parts]
    return float(torch.stack(norms).norm())


def learning_rate(config: OptimiserConfig, step: int) -> float:
    """Learning rate of step `step` (from 1): linear warm-up to the peak, then a cosine towards 0.

    No step is spent at a rate of 0.

    Formula: docs/specification/trainer.md#schedule.
    """
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    progress = (step - 1 - config.warmup_steps) / (config.total_steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def _next(batches: Iterator[T], number: int, total_steps: int) -> T:
    try:
        return next(batches)
    except StopIteration:
        raise InputError(
            f"the training batches ended before step {number} of {total_steps}: pass an iterator without end"
        ) from None


def _check_finite(number: int, values: Mapping[str, float], grad_norm: float, batch: object) -> None:
    if math.isfinite(values["loss"]) and math.isfinite(grad_norm):
        return
    shown = ", ".join(f"{name} {value:g}" for name, value in values.items())
    raise DivergenceError(
        f"training diverged at step {number}: {shown}, gradient norm {grad_norm:g}. Lower the learning rate, "
        "lengthen the warm-up, or look for labels that are not finite.",
        batch,
    )
