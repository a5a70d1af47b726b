"""The plan of a run: every trajectory of every document, with an id made of all that determines its labels.

Planning needs tokens and hashes, no weights. The same documents, configuration and hashes give the same plan
everywhere, so resuming is a set difference: planned ids minus the ledger's.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mctrace.collect.config import CollectConfig
from mctrace.collect.documents import Document
from mctrace.collect.edits import Edit, action_edit, drop_edit, droppable_nodes, joint_edit, sample_joint
from mctrace.collect.evaluator import EVALUATOR_VERSION
from mctrace.collect.passes import Work, baseline_pass, plan_passes
from mctrace.collect.policies import random_map, recency_map
from mctrace.collect.sampling import SampledAction, sample_actions
from mctrace.context.actions import Action
from mctrace.context.chance import generator_for
from mctrace.context.lod_map import LODMap
from mctrace.context.ranges import check_range
from mctrace.context.trajectory import Trajectory
from mctrace.context.tree import TreeShape


@dataclass(frozen=True)
class Provenance:
    """What every label of a run depends on besides its document and map."""

    model_hash: str
    tokenizer_hash: str
    gist_hash: str
    dtype: str
    tree: TreeShape


@dataclass(frozen=True)
class PlannedTrajectory:
    """One unit of work: a trajectory, the actions to measure on it, and its part id.

    `variant_group` joins a lod0 baseline with its random variants (preference data); those have no actions.
    """

    part_id: str
    document_id: str
    policy: str
    trajectory: Trajectory
    actions: tuple[SampledAction, ...]
    num_legal_actions: int
    protected_tail: int
    variant_group: str | None = None
    estimator_window: int | None = None
    """r of the windowed estimator; None measures exactly"""
    audited: tuple[int, ...] = ()
    """indices of actions that are measured exactly as well"""
    controls: tuple[int, ...] = ()
    """indices of actions whose span is also measured left out"""
    joints: tuple[tuple[Action, ...], ...] = ()
    """sets of actions that are also measured together"""
    attention_mass: bool = False

    @property
    def estimator(self) -> str:
        return "exact" if self.estimator_window is None else "windowed"

    @cached_property
    def action_edits(self) -> tuple[Edit, ...]:
        return tuple(action_edit(self.trajectory, sampled.action) for sampled in self.actions)

    @cached_property
    def control_edits(self) -> tuple[Edit, ...]:
        nodes = [self.actions[i].action.node for i in self.controls]
        return tuple(drop_edit(self.trajectory, node) for node in nodes)

    @cached_property
    def audit_edits(self) -> tuple[Edit, ...]:
        return tuple(self.action_edits[i] for i in self.audited)

    @cached_property
    def joint_edits(self) -> tuple[Edit, ...]:
        return tuple(joint_edit(self.trajectory, actions) for actions in self.joints)

    @property
    def edits_by_window(self) -> list[tuple[Sequence[Edit], int | None]]:
        """Everything to measure, as it is measured: by the run's estimator first, then exactly."""
        return [
            (self.action_edits + self.control_edits, self.estimator_window),
            (self.audit_edits + self.joint_edits, None),
        ]

    def work(self, batch_tokens: int) -> Work:
        """What the base model has to do for the baseline and every edit, in passes of `batch_tokens`."""
        passes = [baseline_pass(self.trajectory)]
        for edits, window in self.edits_by_window:
            passes += plan_passes(self.trajectory, edits, window, batch_tokens)
        return sum((p.work for p in passes), start=Work())

    @property
    def num_effect_values(self) -> int:
        """Per-token delta_nll values that will be stored."""
        edits = [edit for alike, _ in self.edits_by_window for edit in alike]
        return sum(self.trajectory.end - edit.first_token for edit in edits)


def plan_document(
    document: Document, config: CollectConfig, provenance: Provenance
) -> Iterator[PlannedTrajectory]:
    """The document's trajectories in plan order; none when it is too short for a single snapshot.

    Policies take turns from a seeded first one, so that all occur even with one trajectory a document.
    """
    _check_windows(config, provenance.tree)
    seen: set[str] = set()
    for planned in _plan_all(document, config, provenance):
        if planned.part_id not in seen:
            seen.add(planned.part_id)
            yield planned


def _check_windows(config: CollectConfig, tree: TreeShape) -> None:
    for key in ("window", "lod0_window"):
        check_range(f"collect.{key}", getattr(config, key), at_least=tree.block_size)


def _plan_all(
    document: Document, config: CollectConfig, provenance: Provenance
) -> Iterator[PlannedTrajectory]:
    first_policy = int(generator_for("policy", document.document_id, config.seed).integers(2**31))
    for number in range(config.trajectories_per_document):
        policy = config.policies[(first_policy + number) % len(config.policies)]
        cursors = place_cursors(document, config, provenance.tree, number)
        if cursors is None:
            return
        head = _head_map(document.document_id, policy, number, cursors[0], config, provenance.tree)
        trajectory = Trajectory(head, cursors, config.horizon)
        yield plan_trajectory(document.document_id, policy, trajectory, config, provenance)
        yield from _plan_variants(document.document_id, number, cursors, config, provenance)


def plan_trajectory(
    document_id: str, policy: str, trajectory: Trajectory, config: CollectConfig, provenance: Provenance
) -> PlannedTrajectory:
    """A trajectory whose legal actions are measured, all or a seeded sample of them."""
    legal = trajectory.legal_actions(config.protected_tail)
    key = (document_id, policy, trajectory.first_cursor, config.seed)
    actions = tuple(sample_actions(legal, config.max_actions, generator_for("actions", *key)))
    chosen = [sampled.action for sampled in actions]
    droppable = set(droppable_nodes(trajectory, chosen)) if config.drop_controls else set()
    planned = PlannedTrajectory(
        "",
        document_id,
        policy,
        trajectory,
        actions,
        len(legal),
        config.protected_tail,
        controls=tuple(i for i, action in enumerate(chosen) if action.node in droppable),
        joints=tuple(
            sample_joint(
                trajectory, chosen, config.joint_size, config.joint_edits, generator_for("joint", *key)
            )
        ),
        attention_mass=config.attention_mass,
    )
    if config.estimator == "windowed":
        drawn = generator_for("audit", *key).random(len(actions)) < config.audit_fraction
        audited = tuple(np.flatnonzero(drawn).tolist())
        planned = replace(planned, estimator_window=config.estimator_window, audited=audited)
    return with_id(planned, provenance)


def place_cursors(
    document: Document, config: CollectConfig, tree: TreeShape, number: int
) -> tuple[int, ...] | None:
    """Seeded cursors of the document's trajectory `number`, the first a multiple of K; None if too short.

    The first cursor has a full window behind it wherever the document is long enough for one.
    """
    block = tree.block_size
    spread = (config.cursors_per_trajectory - 1) * config.cursor_stride
    latest = (document.num_tokens - config.horizon - spread) // block
    earliest = max(1, -(-(config.protected_tail + block) // block))
    if latest < earliest:
        return None
    earliest = max(earliest, min(latest, -(-config.window // block)))
    generator = generator_for("cursor", document.document_id, number, config.seed)
    first = int(generator.integers(earliest, latest + 1)) * block
    return tuple(first + i * config.cursor_stride for i in range(config.cursors_per_trajectory))


def window_start(cursor: int, window: int, tree: TreeShape) -> int:
    """The first block boundary at most `window` tokens before `cursor`."""
    return max(0, -(-(cursor - window) // tree.block_size) * tree.block_size)


def _head_map(
    document_id: str, policy: str, number: int, cursor: int, config: CollectConfig, tree: TreeShape
) -> LODMap:
    if policy == "lod0":
        return LODMap.of_tokens(tree, window_start(cursor, config.lod0_window, tree), cursor)
    start = window_start(cursor, config.window, tree)
    if policy == "recency":
        newest, *older = config.recency_level_tokens
        return recency_map(tree, start, cursor, (max(newest, config.protected_tail), *older))
    assert policy == "random", policy
    return _random_map(tree, start, cursor, config, "map", document_id, number, config.seed)


def _random_map(tree: TreeShape, start: int, cursor: int, config: CollectConfig, *key: str | int) -> LODMap:
    return random_map(
        tree,
        start,
        cursor,
        target_length=config.train_wc_length,
        protected_tail=config.protected_tail,
        num_iterations=config.random_variant_iterations,
        generator=generator_for(*key),
    )


def _plan_variants(
    document_id: str,
    number: int,
    cursors: tuple[int, ...],
    config: CollectConfig,
    provenance: Provenance,
) -> Iterator[PlannedTrajectory]:
    """One lod0 baseline and `num_random_variants` compressions of the same window: losses, no actions."""
    if not config.num_random_variants:
        return
    tree, cursor = provenance.tree, cursors[0]
    start = window_start(cursor, config.window, tree)
    lod0 = LODMap.of_tokens(tree, start, cursor)
    # The baseline's own identity: what another run measures otherwise is never compared with it.
    baseline = PlannedTrajectory(
        "",
        document_id,
        "variant_lod0",
        Trajectory(lod0, cursors, config.horizon),
        (),
        0,
        config.protected_tail,
    )
    group = with_id(baseline, provenance).part_id
    maps = [("variant_lod0", lod0)]
    for variant in range(config.num_random_variants):
        key = ("variant", document_id, number, variant, config.seed)
        maps.append(("variant_random", _random_map(tree, start, cursor, config, *key)))
    for policy, head in maps:
        trajectory = Trajectory(head, cursors, config.horizon)
        planned = PlannedTrajectory(
            "", document_id, policy, trajectory, (), 0, config.protected_tail, variant_group=group
        )
        yield with_id(planned, provenance)


def with_id(planned: PlannedTrajectory, provenance: Provenance) -> PlannedTrajectory:
    """The same plan under the part id that all of it determines."""
    trajectory, tree = planned.trajectory, provenance.tree
    identity = {
        "document": planned.document_id,
        "start": trajectory.head.start,
        "levels": np.asarray(trajectory.head.levels).tolist(),
        "cursors": trajectory.cursors,
        "horizon": trajectory.horizon,
        "actions": [(*_action_key(s.action), s.inclusion_probability) for s in planned.actions],
        "audited": planned.audited,
        "controls": planned.controls,
        "joints": [[_action_key(action) for action in actions] for actions in planned.joints],
        "attention_mass": planned.attention_mass,
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
    return replace(planned, part_id=part_digest(identity))


def _action_key(action: Action) -> tuple[str, int, int]:
    return action.kind, action.node.level, action.node.index


def part_digest(identity: dict[str, object]) -> str:
    """A part id: the hash of everything that determines the part's content."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:40]


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
