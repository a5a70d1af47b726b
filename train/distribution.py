"""The processes of one data-parallel run, as little of them as training has to know.

Every process holds the whole network and takes its share of each batch. Losses are sums over counts of the
whole batch, so that gradients are simply added up: no averages of averages, and the same step as one process
would take.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor, distributed, nn

from mctrace.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Workers:
    """This process among `size`, of which the one with rank 0 writes files and talks."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def totals(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The sum of each scalar over all workers, without gradients; all must have the same names."""
        if self.size == 1 or not values:
            return {name: value.detach() for name, value in values.items()}
        stacked = torch.stack([value.detach() for value in values.values()])
        distributed.all_reduce(stacked)
        return dict(zip(values, stacked.unbind(), strict=True))

    def sum_gradients(self, module: nn.Module) -> None:
        """Add up every parameter's gradient over all workers; one that has none counts as 0."""
        if self.size == 1:
            return
        parameters = [p for p in module.parameters() if p.requires_grad]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        distributed.all_reduce(flat)
        parts = torch.split(flat, [p.numel() for p in parameters])
        for parameter, gradient in zip(parameters, parts, strict=True):
            parameter.grad = gradient.view_as(parameter).clone()

    def gathered(self, value: T) -> list[T]:
        """What every worker has, in the order of their ranks."""
        if self.size == 1:
            return [value]
        found: list[object] = [None] * self.size
        distributed.all_gather_object(found, value)
        return cast(list[T], found)

    def any(self, flag: bool) -> bool:
        """Whether any worker says so."""
        return any(self.gathered(flag))

    def from_first(self, value: T) -> T:
        """What the first worker has."""
        return self.gathered(value)[0]


@contextmanager
def joined() -> Iterator[Workers]:
    """The workers that `torchrun` started this process among; alone where it was not started by it.

    Raises ConfigError when the environment names workers but no way to reach them.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Workers()
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE is {size}, but {', '.join(missing)} is not set: start with torchrun "
            "(torchrun --no-python --nproc-per-node 2 mctrace train ...)"
        )
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # Objects travel over gloo, gradients on a GPU over nccl.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Workers(distributed.get_rank(), size)
    finally:
        distributed.destroy_process_group()
