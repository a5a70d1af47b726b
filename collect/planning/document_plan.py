"""Plan of one document: cursors, LOD maps and sampled actions of its trajectories, and side measurements.

Planning needs tokens and hashes, no weights. The same documents, configuration and hashes give the same plan
everywhere, so resuming is a set difference: planned ids minus the ledger's.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from mctrace.collect.config import CollectConfig
from mctrace.collect.corpus.documents import Document
from mctrace.collect.planning.action_sampling import SampledAction, Screening, sample_actions
from mctrace.collect.planning.edits import sample_joint
from mctrace.collect.planning.estimators import Estimator
from mctrace.collect.planning.map_policies import random_map, recency_map, truncation_map
from mctrace.collect.planning.part_ids import trajectory_part_id
from mctrace.collect.planning.word_overlap import overlap_weights
from mctrace.collect.planning.work_units import (
    LabelledTrajectory,
    PlannedAttention,
    PlannedDrops,
    PlannedJoints,
    PreferenceVariant,
    RuntimeLog,
    WorkUnit,
)
from mctrace.context.actions import Action, is_legal_at
from mctrace.context.lod_map import LODMap
from mctrace.context.trajectory import Trajectory
from mctrace.context.tree import TreeShape
from mctrace.datasets.store.provenance import Provenance
from mctrace.ranges import check_range
from mctrace.seeding import generator_for


class MapMaker(Protocol):
    """Source of the maps of the policy `lensnet`, which need model weights (`lensnet_policy.py`)."""

    @property
    def identity(self) -> str:
        """Hash of everything that its maps depend on besides document and base model."""
        ...

    def head_map(
        self, document: Document, tree: TreeShape, start: int, cursor: int, *key: str | int
    ) -> LODMap: ...


def plan_document(
    document: Document, config: CollectConfig, provenance: Provenance, lensnet: MapMaker | None = None
) -> Iterator[WorkUnit]:
    """The document's trajectories in plan order; none when it is too short for a single snapshot.

    Policies take turns from a seeded first one, so that all occur even with one trajectory a document.
    """
    _check_windows(config, provenance.tree)
    seen: set[str] = set()
    for planned in _plan_all(document, config, provenance, lensnet):
        if planned.part_id not in seen:
            seen.add(planned.part_id)
            yield planned


def _check_windows(config: CollectConfig, tree: TreeShape) -> None:
    for key in ("window", "lod0_window"):
        check_range(f"collect.{key}", getattr(config, key), at_least=tree.block_size)


def _plan_all(
    document: Document, config: CollectConfig, provenance: Provenance, lensnet: MapMaker | None
) -> Iterator[WorkUnit]:
    first_policy = int(generator_for("policy", document.document_id, config.seed).integers(2**31))
    for number in range(config.trajectories_per_document):
        policy = config.policies[(first_policy + number) % len(config.policies)]
        cursors = place_cursors(document, config, provenance.tree, number)
        if cursors is None:
            return
        if policy == "lensnet":
            # Only at its map's own cursor is a context what the LensNet would have shown.
            cursors = cursors[:1]
        head = _head_map(document, policy, number, cursors[0], config, provenance.tree, lensnet)
        trajectory = Trajectory(head, cursors, config.horizon)
        yield from plan_trajectory(document, policy, trajectory, config, provenance)
        yield from _plan_variants(document.document_id, number, cursors, config, provenance)


def plan_trajectory(
    document: Document,
    policy: str,
    trajectory: Trajectory,
    config: CollectConfig,
    provenance: Provenance,
    log: RuntimeLog | None = None,
) -> Iterator[WorkUnit]:
    """A trajectory whose legal actions are measured, all or a seeded sample, then its side measurements."""
    legal = [a for a in trajectory.legal_actions(config.protected_tail) if a.kind in config.actions]
    key = (document.document_id, policy, trajectory.first_cursor, config.seed)
    by_overlap = config.action_sampling == "overlap"
    weight_A = overlap_weights(trajectory, legal, document.tokens) if by_overlap else None
    actions = tuple(sample_actions(legal, config.max_actions, generator_for("actions", *key), weight_A))
    audited: tuple[int, ...] = ()
    screening = None
    if config.action_sampling == "screened":
        assert config.max_actions is not None
        actions = tuple(SampledAction(action, None) for action in legal)
        screening = Screening(config.max_actions, key)
    if config.estimator != "exact":
        drawn = generator_for("audit", *key).random(len(actions)) < config.audit_fraction
        audited = tuple(np.flatnonzero(drawn).tolist())
    labelled = LabelledTrajectory(
        document_id=document.document_id,
        policy=policy,
        trajectory=trajectory,
        protected_tail=config.protected_tail,
        provenance=provenance,
        actions=actions,
        num_legal_actions=len(legal),
        estimator=estimator_of(config),
        screening=screening,
        audited=audited,
        log=log or RuntimeLog(),
    )
    yield labelled
    if config.drop_controls and actions:
        yield PlannedDrops(labelled)
    if config.joint_edits and (joints := _joints(labelled, config, generator_for("joint", *key))):
        yield PlannedJoints(labelled, joints)
    if config.attention_mass:
        yield PlannedAttention(labelled)


def estimator_of(config: CollectConfig) -> Estimator:
    """The estimator that a configuration asks for."""
    if config.action_sampling == "screened":
        return Estimator("gradient", segment=config.gradient_segment)
    return Estimator(
        config.estimator,
        config.estimator_window if config.estimator == "windowed" else None,
        config.gradient_segment if config.estimator == "gradient" else None,
    )


def _joints(
    labelled: LabelledTrajectory, config: CollectConfig, generator: np.random.Generator
) -> tuple[tuple[Action, ...], ...]:
    """Sets of measured actions that every cursor may take together."""
    trajectory = labelled.trajectory
    tree, cursor = trajectory.head.tree, trajectory.first_cursor
    chosen = [sampled.action for sampled in labelled.actions]
    legal = [action for action in chosen if is_legal_at(action, tree, cursor, config.protected_tail)]
    return tuple(sample_joint(trajectory, legal, config.joint_size, config.joint_edits, generator))


def place_cursors(
    document: Document, config: CollectConfig, tree: TreeShape, number: int
) -> tuple[int, ...] | None:
    """Seeded cursors of the document's trajectory `number`, the first a multiple of K; None if too short.

    The first cursor has a full window behind it wherever the document is long enough for one, and all lie
    among the document's `config.last_tokens` tokens where they fit there.
    """
    block = tree.block_size
    spread = (config.cursors_per_trajectory - 1) * config.cursor_stride
    latest = (document.num_tokens - config.horizon - spread) // block
    earliest = max(1, -(-(config.protected_tail + block) // block))
    if latest < earliest:
        return None
    last_tokens = document.num_tokens if config.last_tokens is None else config.last_tokens
    wished = max(config.window, document.num_tokens - last_tokens)
    earliest = max(earliest, min(latest, -(-wished // block)))
    generator = generator_for("cursor", document.document_id, number, config.seed)
    first = int(generator.integers(earliest, latest + 1)) * block
    return tuple(first + i * config.cursor_stride for i in range(config.cursors_per_trajectory))


def window_start(cursor: int, window: int, tree: TreeShape) -> int:
    """The first block boundary at most `window` tokens before `cursor`."""
    return max(0, -(-(cursor - window) // tree.block_size) * tree.block_size)


def _head_map(
    document: Document,
    policy: str,
    number: int,
    cursor: int,
    config: CollectConfig,
    tree: TreeShape,
    lensnet: MapMaker | None,
) -> LODMap:
    if policy == "lod0":
        return LODMap.of_tokens(tree, window_start(cursor, config.lod0_window, tree), cursor)
    start = window_start(cursor, config.window, tree)
    if policy == "recency":
        newest, *older = config.recency_level_tokens
        newest = max(newest, config.protected_tail)
        if config.max_detail == "absent":
            return truncation_map(tree, start, cursor, cursor - newest)
        return recency_map(tree, start, cursor, (newest, *older))
    if policy == "lensnet":
        assert lensnet is not None, "the planner of a lensnet policy is given its maps"
        return lensnet.head_map(document, tree, start, cursor, document.document_id, number, config.seed)
    assert policy == "random", policy
    return _random_map(tree, start, cursor, config, "map", document.document_id, number, config.seed)


def _random_map(tree: TreeShape, start: int, cursor: int, config: CollectConfig, *key: str | int) -> LODMap:
    return random_map(
        tree,
        start,
        cursor,
        target_length=config.train_wc_length,
        protected_tail=config.protected_tail,
        num_iterations=config.random_variant_iterations,
        generator=generator_for(*key),
        kinds=config.actions,
    )


def _plan_variants(
    document_id: str,
    number: int,
    cursors: tuple[int, ...],
    config: CollectConfig,
    provenance: Provenance,
) -> Iterator[PreferenceVariant]:
    """One lod0 baseline and `num_random_variants` compressions of the same window: losses, no actions."""
    if not config.num_random_variants:
        return
    tree, cursor = provenance.tree, cursors[0]
    start = window_start(cursor, config.window, tree)
    lod0 = LODMap.of_tokens(tree, start, cursor)
    # The baseline's own identity: what another run measures otherwise is never compared with it.
    baseline = Trajectory(lod0, cursors, config.horizon)
    group = trajectory_part_id(document_id, "variant_lod0", baseline, config.protected_tail, provenance)
    maps = [("variant_lod0", lod0)]
    for variant in range(config.num_random_variants):
        key = ("variant", document_id, number, variant, config.seed)
        maps.append(("variant_random", _random_map(tree, start, cursor, config, *key)))
    for policy, head in maps:
        yield PreferenceVariant(
            document_id=document_id,
            policy=policy,
            trajectory=Trajectory(head, cursors, config.horizon),
            protected_tail=config.protected_tail,
            provenance=provenance,
            variant_group=group,
        )
