"""Scores of checkpoints on measured snapshots: the one place where `analysis/` runs a LensNet on labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt

from mctrace.analysis.questions.catalogue import Row, add_scores, run_analysis
from mctrace.analysis.snapshots.view import SnapshotView
from mctrace.datasets.batches.document_embeddings import DocumentEmbeddings
from mctrace.datasets.store.provenance import Provenance
from mctrace.datasets.store.store import StoreVersion
from mctrace.train.checkpoints.lensnet_checkpoint import CheckpointInfo, checkpoint_name, load_checkpoint
from mctrace.train.inference import score_contexts
from mctrace.train.networks.lensnet import LensNet
from mctrace.train.serving.compatibility import check_compatible, differences

MOST_RANKED = 300
"""trajectories whose labels are ranked when no snapshots are scored"""
_BATCH_SIZE = 8


@dataclass(frozen=True)
class NamedCheckpoint:
    """A checkpoint with its name on a page."""

    name: str
    folder: Path
    network: LensNet
    info: CheckpointInfo

    def fits(self, kind: Provenance) -> bool:
        """True where the checkpoint learned from this kind of labels."""
        return not differences(self.info, kind)


def open_checkpoints(folders: Sequence[Path]) -> list[NamedCheckpoint]:
    """The checkpoints in `folders` under distinct names. Raises InputError for a folder that holds none."""
    names = [checkpoint_name(folder) for folder in folders]
    return [
        NamedCheckpoint(name if names.count(name) == 1 else str(folder), folder, *load_checkpoint(folder))
        for name, folder in zip(names, folders, strict=True)
    ]


def score_snapshots(
    version: StoreVersion, snapshots: Sequence[SnapshotView], scorers: Sequence[NamedCheckpoint]
) -> list[SnapshotView]:
    """The snapshots with every checkpoint's signed scores, at their present size.

    Raises InputError where a checkpoint was trained on labels of another base model, GistNet or tree.
    """
    found: list[dict[str, npt.NDArray[np.float64]]] = [{} for _ in snapshots]
    for scorer in scorers:
        for snapshot in snapshots:
            where = f"snapshot {snapshot.snapshot_id} has"
            check_compatible(scorer.info, scorer.folder, [snapshot.provenance], where)
        for scores, scores_N in zip(found, _score_entries(version, snapshots, scorer), strict=True):
            scores[scorer.name] = scores_N
    return [one.with_scores(scores) for one, scores in zip(snapshots, found, strict=True)]


def _score_entries(
    version: StoreVersion, snapshots: Sequence[SnapshotView], scorer: NamedCheckpoint
) -> list[npt.NDArray[np.float64]]:
    """Scores [N] of each snapshot."""
    arrays = DocumentEmbeddings(version, tuple({snapshot.provenance for snapshot in snapshots}))
    contexts = [
        arrays.document(s.document_id, s.provenance).context(s.lod_map, s.protected_tail) for s in snapshots
    ]
    return [
        scores_N.double().numpy()
        for first in range(0, len(contexts), _BATCH_SIZE)
        for scores_N in score_contexts(
            scorer.network, contexts[first : first + _BATCH_SIZE], signed=scorer.info.signed
        )
    ]


def scorer_agreement(connection: duckdb.DuckDBPyConnection, snapshots: Sequence[SnapshotView]) -> list[Row]:
    """Rows of `scorer_agreement.sql` for these snapshots' scores; without snapshots, for a sample."""
    add_scores(
        connection,
        [
            {
                "scorer": scorer,
                "snapshot_id": snapshot.snapshot_id,
                "action": found.action.kind,
                "node_level": found.action.node.level,
                "node_index": found.action.node.index,
                "score": value,
            }
            for snapshot in snapshots
            for found in snapshot.actions
            for scorer, value in found.scores.items()
        ],
    )
    return run_analysis(connection, "scorer_agreement", most_trajectories=MOST_RANKED)
