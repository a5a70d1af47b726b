"""Part ids: a hash of everything that determines a part's content, and of nothing else.

A retry or a second collector that plans the same part therefore finds it, and a change of anything that would
give other numbers never does.
"""

from collections.abc import Sequence

import numpy as np

from mctrace.collect.planning.action_sampling import SampledAction, Screening
from mctrace.collect.planning.estimators import EXACT, Estimator
from mctrace.context.actions import Action
from mctrace.context.trajectory import Trajectory
from mctrace.datasets.store.parts import part_digest
from mctrace.datasets.store.provenance import Provenance

EVALUATOR_VERSION = 2
"""Part of every label's identity: raise it when the same inputs would give other numbers."""


def trajectory_part_id(
    document_id: str,
    policy: str,
    trajectory: Trajectory,
    protected_tail: int,
    provenance: Provenance,
    *,
    actions: Sequence[SampledAction] = (),
    audited: Sequence[int] = (),
    estimator: Estimator = EXACT,
    screening: Screening | None = None,
    variant_group: str | None = None,
) -> str:
    """Part id of a trajectory's labels, or of a preference variant's losses."""
    tree = provenance.tree
    return part_digest(
        {
            "document": document_id,
            "start": trajectory.head.start,
            "levels": np.asarray(trajectory.head.levels).tolist(),
            "cursors": trajectory.cursors,
            "horizon": trajectory.horizon,
            "actions": [(*_action_key(s.action), s.inclusion_probability) for s in actions],
            "audited": audited,
            "policy": policy,
            "variant_group": variant_group,
            "protected_tail": protected_tail,
            "tree": (tree.block_size, tree.max_level),
            "model": provenance.model_hash,
            "tokenizer": provenance.tokenizer_hash,
            "gists": provenance.gist_hash,
            "dtype": provenance.dtype,
            "estimator": estimator.name,
            "estimator_window": estimator.window,
            **({"screening": (screening.size, screening.key)} if screening else {}),
            **({"gradient_segment": estimator.segment} if estimator.name == "gradient" else {}),
            "evaluator_version": EVALUATOR_VERSION,
        }
    )


def side_measurement_part_id(trajectory_id: str, kind: str, joints: Sequence[Sequence[Action]] = ()) -> str:
    """Part id of a measurement beside the labels of the trajectory `trajectory_id`."""
    keys = [[_action_key(action) for action in actions] for actions in joints]
    return part_digest({"trajectory": trajectory_id, "unit": kind, "joints": keys})


def _action_key(action: Action) -> tuple[str | int, ...]:
    key = (action.kind, action.node.level, action.node.index)
    return (*key, action.entry_level) if action.kind in ("insert", "drop") else key


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
