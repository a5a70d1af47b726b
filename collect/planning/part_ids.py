"""Part ids: a hash of everything that determines a part's content, and of nothing else.

A retry or a second collector that plans the same part therefore finds it, and a change of anything that would
give other numbers never does.
"""

from dataclasses import replace

import numpy as np

from mctrace.collect.planning.work_units import PlannedTrajectory
from mctrace.context.actions import Action
from mctrace.datasets.store.parts import part_digest
from mctrace.datasets.store.provenance import Provenance


def with_id(planned: PlannedTrajectory, provenance: Provenance) -> PlannedTrajectory:
    """The same unit under the part id that all of it determines.

    A side measurement's id follows from its trajectory's, which it has to name already.
    """
    if planned.unit == "trajectory":
        part_id = part_digest(_identity(planned, provenance))
        return replace(planned, part_id=part_id, trajectory_id=part_id)
    assert planned.trajectory_id, "a side measurement belongs to a trajectory that has its id"
    joints = [[_action_key(action) for action in actions] for actions in planned.joints]
    identity: dict[str, object] = {"trajectory": planned.trajectory_id, "unit": planned.unit}
    return replace(planned, part_id=part_digest({**identity, "joints": joints}))


def _identity(planned: PlannedTrajectory, provenance: Provenance) -> dict[str, object]:
    trajectory, tree = planned.trajectory, provenance.tree
    return {
        "document": planned.document_id,
        "start": trajectory.head.start,
        "levels": np.asarray(trajectory.head.levels).tolist(),
        "cursors": trajectory.cursors,
        "horizon": trajectory.horizon,
        "actions": [(*_action_key(s.action), s.inclusion_probability) for s in planned.actions],
        "audited": planned.audited,
        "policy": planned.policy,
        "variant_group": planned.variant_group,
        "protected_tail": planned.protected_tail,
        "tree": (tree.block_size, tree.max_level),
        "model": provenance.model_hash,
        "tokenizer": provenance.tokenizer_hash,
        "gists": provenance.gist_hash,
        "dtype": provenance.dtype,
        "estimator": planned.estimator,
        "estimator_window": planned.estimator_window,
        "evaluator_version": EVALUATOR_VERSION,
    }


def _action_key(action: Action) -> tuple[str, int, int]:
    return action.kind, action.node.level, action.node.index


def document_part_id(document_id: str, provenance: Provenance) -> str:
    """A document's gists depend on the model and its dtype, the GistNet and the tree; so does its part."""
    tree = (provenance.tree.block_size, provenance.tree.max_level)
    return part_digest(
        {
            "document": document_id,
            "model": provenance.model_hash,
            "gists": provenance.gist_hash,
            "dtype": provenance.dtype,
            "tree": tree,
        }
    )


def embeddings_part_id(provenance: Provenance) -> str:
    """A model's embedding table is kept once per dtype."""
    return part_digest({"embeddings": provenance.model_hash, "dtype": provenance.dtype})


def vocabulary_part_id(tokenizer_hash: str) -> str:
    """A tokenizer's vocabulary is kept once."""
    return part_digest({"vocabulary": tokenizer_hash})


EVALUATOR_VERSION = 2
"""Part of every label's identity: raise it when the same inputs would give other numbers."""
