"""Influence: which absent block would have lowered the loss of what was read last, by one backward pass.

Each absent block alone is inserted, to first order, into the context as it was before the last blocks were
read (`collect/measuring/gradient_estimator.py`); what would have lowered their loss is wanted again.
Needs no training. Saturated attention makes the estimate smaller than the effect, so only its order counts.
"""

from dataclasses import dataclass

import numpy as np

from mctrace.analysis.closed_loop.policies import Observation
from mctrace.collect.measuring.gradient_estimator import estimate_edits
from mctrace.collect.planning.edits import action_edit
from mctrace.context.actions import legal_actions
from mctrace.context.allocator_candidates import FloatArray
from mctrace.context.lod_map import LODMap
from mctrace.context.trajectory import Trajectory


@dataclass(frozen=True)
class Influence:
    """First-order gain of each absent block on the last tokens read, nats per token."""

    num_query_blocks: int = 2
    """complete blocks whose loss is read"""

    def __call__(self, observation: Observation, window: LODMap) -> FloatArray:
        """Gain [M] of the M absent blocks of `window`, oldest first."""
        read = self.num_query_blocks * window.tree.block_size
        levels = window.levels[: len(window.levels) - self.num_query_blocks]
        before = LODMap(window.tree, window.start, window.cursor - read, levels)
        inserts = [
            action
            for action in legal_actions(before, observation.protected_tail)
            if action.kind == "insert" and action.level_after == 0
        ]
        trajectory = Trajectory(before, (before.cursor,), read)
        edits = [action_edit(trajectory, action) for action in inserts]
        estimated = estimate_edits(
            observation.reader.model, observation.document, trajectory, edits, observation.batching
        )
        return np.array([-float(delta_H.double().mean()) for delta_H in estimated.deltas])
