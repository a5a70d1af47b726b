"""The optimisation loop, for any module and any loss: LensNet and GistNet are both trained by it.

It is a generator of finished steps, so that what happens between steps (logging, evaluation, checkpoints) is
the caller's own visible `for` loop.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

import torch
from torch import Tensor, nn

from mctrace.errors import InputError, MctraceError
from mctrace.train.config import OptimiserConfig

T = TypeVar("T")
"""whatever the loss function calls a batch"""


class DivergenceError(MctraceError, ArithmeticError):
    """Training that cannot go on because the loss or its gradient is not a finite number."""

    def __init__(self, message: str, batch: object = None) -> None:
        super().__init__(message)
        self.batch = batch
        """what the step was given, for whoever wants to look into it"""


@dataclass(frozen=True)
class Step:
    """One finished optimisation step."""

    number: int
    """counted from 1"""
    values: Mapping[str, float]
    """what the loss function reported, with `loss` among it"""
    grad_norm: float
    """global norm before clipping"""
    learning_rate: float
    seconds: float
    """spent on this step, waiting for its batch included, the caller's work between steps not"""
    read_seconds: float = 0.0
    """of these, spent waiting for the batch"""


def optimise(
    module: nn.Module,
    batches: Iterator[T],
    loss_fn: Callable[[T], tuple[Tensor, Mapping[str, float]]],
    config: OptimiserConfig,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Step]:
    """Take `config.total_steps` steps of AdamW, one batch each, yielding after each.

    `loss_fn` gives the scalar to minimise and the numbers to report, `loss` among them. Raises what `descend`
    raises.
    """

    def gradients(batch: T) -> Mapping[str, float]:
        loss, values = loss_fn(batch)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return values

    return descend(module, batches, gradients, config, make_optimiser(module, config), clock=clock)


def make_optimiser(module: nn.Module, config: OptimiserConfig) -> torch.optim.AdamW:
    """AdamW over all of the module's parameters; its learning rate is set step by step."""
    return torch.optim.AdamW(
        module.parameters(),
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )


def descend(
    module: nn.Module,
    batches: Iterator[T],
    gradients: Callable[[T], Mapping[str, float]],
    config: OptimiserConfig,
    optimiser: torch.optim.Optimizer,
    *,
    done: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Step]:
    """Take the steps after the first `done` of `config.total_steps`, one batch each, yielding after each.

    `gradients` leaves a batch's gradient in the module's parameters and gives the numbers to report, `loss`
    among them. Raises InputError when the batches end too early (see `endless`) and DivergenceError at the
    first loss or gradient that is not finite, before it reaches the weights.
    """
    for number in range(done + 1, config.total_steps + 1):
        started = clock()
        batch = _next(batches, number, config.total_steps)
        read = clock()
        rate = learning_rate(config, number)
        for group in optimiser.param_groups:
            group["lr"] = rate
        module.train()
        optimiser.zero_grad(set_to_none=True)
        values = gradients(batch)
        grad_norm = float(nn.utils.clip_grad_norm_(module.parameters(), config.gradient_clip))
        _check_finite(number, values, grad_norm, batch)
        optimiser.step()
        yield Step(number, values, grad_norm, rate, clock() - started, read - started)


def learning_rate(config: OptimiserConfig, step: int) -> float:
    """Linear warm-up to the peak, then a cosine towards 0; steps count from 1, none of them is wasted at 0.

    Formula: docs/specification/trainer.md#schedule.
    """
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    progress = (step - 1 - config.warmup_steps) / (config.total_steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def endless(epoch_batches: Callable[[int], Iterable[T]]) -> Iterator[T]:
    """The batches of epoch 0, then of epoch 1, and so on; raises InputError at an epoch that has none."""
    for epoch in count():
        empty = True
        for batch in epoch_batches(epoch):
            empty = False
            yield batch
        if empty:
            raise InputError(f"epoch {epoch} has no training batch: check the split and the store's version")


def _next(batches: Iterator[T], number: int, total_steps: int) -> T:
    try:
        return next(batches)
    except StopIteration:
        raise InputError(
            f"the training batches ended before step {number} of {total_steps}: pass `endless(...)` batches"
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
