"""Forecast of a run's cost, from the counts of its plan and one timed trajectory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mctrace.base_model.flop_counts import ModelSize, Work
from mctrace.collect.planning.work_units import PlannedTrajectory, UnitSize, WorkUnit
from mctrace.context.tree import TreeShape

# Sizes of small compressed files, as parts of tiny and real models have them; within a tenth of each other.
_TRAJECTORY_BYTES = 4_400
"""the table of one trajectory without its losses"""
_EFFECTS_BYTES = 2_000
_EFFECT_BYTES = 90
_VALUE_BYTES = 3.5
"""per-token delta_nll, of 4 bytes: 3.8 in a real model's files, 2.5 in a tiny one's"""
_LOSS_BYTES = 3.6
_SIDE_TABLE_BYTES = 1_300
_DOCUMENT_BYTES = 4_300
"""its row and the descriptions of its arrays"""
_LEVEL_BYTES = 750
_TOKEN_BYTES = 1.3
_GIST_BYTES = 3.4
"""one number of a gist"""


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

    def scaled(self, factor: float) -> "Forecast":
        """The forecast of a plan `factor` times as large."""
        work = self.work
        return Forecast(
            round(factor * self.num_trajectories),
            round(factor * self.num_snapshots),
            round(factor * self.num_effects),
            Work(*(round(factor * n) for n in (work.num_recomputed, work.num_read, work.num_pairs))),
            factor * self.flops,
            factor * self.seconds,
            round(factor * self.num_bytes),
        )


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
    units = sum(_unit_bytes(unit, unit.size(batch_tokens)) for unit in plan)
    tree = plan[0].trajectory.head.tree if plan else TreeShape()
    documents = sum(_document_bytes(tree, num, embedding_dim) for num in document_tokens.values())
    return round(units + documents)


def _unit_bytes(unit: WorkUnit, size: UnitSize) -> float:
    effects = _EFFECTS_BYTES + _EFFECT_BYTES * size.num_effects + _VALUE_BYTES * size.num_effect_values
    if not isinstance(unit, PlannedTrajectory):
        return effects + (_SIDE_TABLE_BYTES if unit.kind != "drops" else 0)
    num_losses = unit.trajectory.end - unit.trajectory.first_cursor
    return effects + _TRAJECTORY_BYTES + _LOSS_BYTES * num_losses


def _document_bytes(tree: TreeShape, num_tokens: int, embedding_dim: int) -> float:
    num_gists = sum(tree.num_complete_nodes(level, num_tokens) for level in range(1, tree.max_level + 1))
    described = _DOCUMENT_BYTES + _LEVEL_BYTES * tree.max_level
    return described + _TOKEN_BYTES * num_tokens + _GIST_BYTES * num_gists * embedding_dim
