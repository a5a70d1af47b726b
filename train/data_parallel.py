"""Data-parallel training: the process group that torchrun starts, and the collectives that training needs.

Every process ("worker") holds the whole network and takes its share of each batch. Losses are sums divided by
counts of the whole batch, so gradients are summed, never averaged, and a step equals that of one process.
"""

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor, distributed, nn

from mctrace.errors import ConfigError, MctraceError

T = TypeVar("T")
Made = TypeVar("Made")


@dataclass(frozen=True)
class ProcessGroup:
    """This process (`rank`) among `size`; rank 0 writes files and prints."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum_scalars(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The sum of each scalar over all workers, detached; all must pass the same names."""
        if self.size == 1 or not values:
            return {name: value.detach() for name, value in values.items()}
        stacked = torch.stack([value.detach() for value in values.values()])
        distributed.all_reduce(stacked)
        return dict(zip(values, stacked.unbind(), strict=True))

    def sum_gradients(self, module: nn.Module) -> None:
        """Sum every parameter's gradient over all workers in place; a missing gradient counts as 0."""
        if self.size == 1:
            return
        parameters = [p for p in module.parameters() if p.requires_grad]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        distributed.all_reduce(flat)
        parts = torch.split(flat, [p.numel() for p in parameters])
        for parameter, gradient in zip(parameters, parts, strict=True):
            parameter.grad = gradient.view_as(parameter).clone()

    def all_gather(self, value: T) -> list[T]:
        """The values of all workers, by rank."""
        if self.size == 1:
            return [value]
        found: list[object] = [None] * self.size
        distributed.all_gather_object(found, value)
        return cast(list[T], found)

    def any(self, flag: bool) -> bool:
        """True if `flag` is true on any worker."""
        return any(self.all_gather(flag))

    def broadcast_first(self, value: T) -> T:
        """The first worker's value."""
        return self.all_gather(value)[0]

    def once_per_machine(
        self, make: Callable[[], AbstractContextManager[Made]], use: Callable[[Made], T]
    ) -> T:
        """`use` in every worker of what `make` gives in the first of each machine, until all have used it.

        What `make` raises in one worker is raised in all.
        """
        hosts = self.all_gather(socket.gethostname())
        leader = hosts.index(hosts[self.rank])
        with ExitStack() as made:
            outcome: Made | MctraceError | None = None
            if leader == self.rank:
                try:
                    outcome = made.enter_context(make())
                except MctraceError as error:
                    outcome = error
            outcomes = self.all_gather(outcome)
            for found in outcomes:
                if isinstance(found, MctraceError):
                    raise found
            used = use(cast(Made, outcomes[leader]))
            self.all_gather(None)  # nobody takes away what another has not opened yet
        return used


@contextmanager
def process_group() -> Iterator[ProcessGroup]:
    """The group that `torchrun` started this process in; a group of one without torchrun.

    Raises ConfigError when WORLD_SIZE is set but RANK, MASTER_ADDR or MASTER_PORT is not.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ProcessGroup()
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
        yield ProcessGroup(distributed.get_rank(), size)
    finally:
        distributed.destroy_process_group()
