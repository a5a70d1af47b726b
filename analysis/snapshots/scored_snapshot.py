"""One snapshot of a store with checkpoints' scores and the edits that the allocator would make."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mctrace.analysis.snapshots.planned_edits import planned_edits
from mctrace.analysis.snapshots.view import ActionView, SnapshotView, find_snapshots, read_snapshots
from mctrace.context.actions import Action
from mctrace.context.allocator import AllocatorConfig
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store.store import StoreVersion


@dataclass(frozen=True)
class ScoredSnapshot:
    """A snapshot, other snapshots of its map, and what the allocator would do with each action."""

    view: SnapshotView
    later: Sequence[str]
    """ids of the snapshots at later cursors, whose map is the same"""
    would: Mapping[Action, str]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON."""
        view = self.view
        where = view.lod_map
        return {
            "snapshot_id": view.snapshot_id,
            "run_id": view.run_id,
            "document_id": view.document_id,
            "source": view.source,
            "split": view.split,
            "policy": view.policy,
            "start": where.start,
            "cursor": where.cursor,
            "num_entries": where.num_entries,
            "num_positions": where.num_positions,
            "semantics": view.semantics,
            "levels": where.levels.tolist(),
            "horizon": view.horizon,
            "baseline_nll": view.baseline_nll,
            "edit_price": view.edit_price,
            "text_problem": view.text_problem or None,
            "spans": [
                {
                    "level": span.level,
                    "index": span.index,
                    "first_token": span.first_token,
                    "end_token": span.end_token,
                    "text": span.text,
                }
                for span in view.spans
            ],
            "actions": [self._action(action) for action in view.actions],
        }

    def _action(self, action: ActionView) -> dict[str, Any]:
        return {
            "action": action.action.kind,
            "node_level": action.action.node.level,
            "node_index": action.action.node.index,
            "distance_to_cursor": action.distance_to_cursor,
            "positions": action.positions,
            "measured": asdict(action.measured) if action.measured else None,
            "scores": dict(action.scores),
            "would": self.would[action.action],
        }


def read_scored_snapshot(
    version: StoreVersion, name: str, checkpoints: Sequence[Path], allocator: AllocatorConfig
) -> ScoredSnapshot:
    """Read the snapshot that `name`, an id or the beginning of its trajectory's id, stands for.

    Raises InputError when it is unknown, or a checkpoint does not fit it.
    """
    version.refuse_damaged()
    with connect(version) as connection:
        found = find_snapshots(connection, name)
        (snapshot,) = read_snapshots(connection, version, found[:1], with_text=True)
        (scale,) = fetch_rows(connection, "from utility_scale")
    if checkpoints:
        # Importing torch takes seconds.
        from mctrace.analysis.snapshots.scoring import open_checkpoints, score_snapshots

        snapshot = score_snapshots(version, [snapshot], open_checkpoints(checkpoints))[0]
    return ScoredSnapshot(snapshot, found[1:], planned_edits(snapshot, scale["scale"], allocator))
