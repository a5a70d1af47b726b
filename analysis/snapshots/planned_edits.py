"""Edits that the focus allocator would make in a snapshot, at the snapshot's present size."""

from collections.abc import Mapping
from dataclasses import replace

from mctrace.analysis.snapshots.view import SnapshotView
from mctrace.context.actions import Action
from mctrace.context.allocator import AllocatorConfig, allocate
from mctrace.context.allocator_candidates import candidates_of


def planned_edits(
    snapshot: SnapshotView, utility_scale: float | None, config: AllocatorConfig
) -> Mapping[Action, str]:
    """For every action "expand", "collapse", "keep", or "unknown" where nothing scores it.

    Scores are those of the snapshot's first checkpoint. Without one they are the measured values under the
    priced target in units of `utility_scale` (nats per unit), as a perfect network would give them. The
    temperature is 0, so that the result is deterministic.
    """
    scores = _scores(snapshot, utility_scale)
    candidates = candidates_of(snapshot.lod_map, snapshot.protected_tail).rescored(scores)
    certain = replace(config, temperature=0.0)
    done = allocate(snapshot.lod_map, candidates, snapshot.lod_map.num_positions, certain).edits
    return {
        found.action: "unknown"
        if found.action not in scores
        else found.action.kind
        if found.action in done
        else "keep"
        for found in snapshot.actions
    }


def _scores(snapshot: SnapshotView, utility_scale: float | None) -> dict[Action, float]:
    if snapshot.scorers:
        name = snapshot.scorers[0]
        return {found.action: found.scores[name] for found in snapshot.actions}
    return {
        found.action: found.measured.priced / utility_scale
        for found in snapshot.actions
        if utility_scale and found.measured and found.measured.priced is not None
    }
