"""Forecast of a run's cost, from the counts of its plan and one timed trajectory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mctrace.base_model.flop_counts import ModelSize, Work
from mctrace.collect.planning.work_units import PlannedTrajectory, WorkUnit

_BYTES_PER_VALUE = 4
_BYTES_PER_PART = 16_000
"""Parquet footers and ledger row of one small part."""


@dataclass(frozen=True)
class Forecast:
    """Predicted totals of a plan. `seconds` is wall time over all workers."""

    num_trajectories: int
    num_snapshots: int
    num_effects: int
    work: Work
    flops: float
    seconds: float
    num_bytes: int


def forecast(
    plan: Sequence[WorkUnit],
    size: ModelSize,
    flops_per_second: float,
    num_workers: int,
    batch_tokens: int,
    embedding_dim: int,
    document_tokens: Mapping[str, int],
) -> Forecast:
    """Totals of `plan` at a worker's measured rate (`flops_per_second`, from one timed trajectory).

    Bytes are those of trajectories and of documents not yet in the store (`document_tokens`, tokens by
    document id); the base model's embedding table comes once on top.
    """
    work = total_work(plan, batch_tokens)
    flops = size.flops(work)
    return Forecast(
        sum(isinstance(unit, PlannedTrajectory) for unit in plan),
        sum(len(unit.trajectory.cursors) for unit in plan if isinstance(unit, PlannedTrajectory)),
        sum(unit.size(batch_tokens).num_effects for unit in plan),
        work,
        flops,
        flops / flops_per_second / num_workers,
        _num_bytes(plan, batch_tokens, embedding_dim, document_tokens),
    )


def total_work(plan: Sequence[WorkUnit], batch_tokens: int) -> Work:
    """Work of the base model for all of `plan`, in passes of `batch_tokens` entries."""
    return sum((unit.work(batch_tokens) for unit in plan), start=Work())


def _num_bytes(
    plan: Sequence[WorkUnit],
    batch_tokens: int,
    embedding_dim: int,
    document_tokens: Mapping[str, int],
) -> int:
    values = sum(unit.size(batch_tokens).num_effect_values for unit in plan)
    block = plan[0].trajectory.head.tree.block_size if plan else 1
    arrays = sum(tokens + tokens // block * embedding_dim for tokens in document_tokens.values())
    num_parts = len(plan) + len(document_tokens)
    return _BYTES_PER_VALUE * (values + arrays) + _BYTES_PER_PART * num_parts
