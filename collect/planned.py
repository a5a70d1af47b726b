"""Planned trajectories: what will be measured, as values that travel to the workers."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from mctrace.collect.edits import Edit, action_edit, drop_edit, joint_edit
from mctrace.collect.passes import Work, baseline_pass, plan_passes
from mctrace.collect.sampling import SampledAction
from mctrace.context.actions import Action
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
    def audited_controls(self) -> tuple[int, ...]:
        """Positions in `controls` whose action is audited: its control is then measured exactly as well."""
        return tuple(i for i, action in enumerate(self.controls) if action in self.audited)

    @cached_property
    def audit_edits(self) -> tuple[Edit, ...]:
        actions = tuple(self.action_edits[i] for i in self.audited)
        return actions + tuple(self.control_edits[i] for i in self.audited_controls)

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
    def num_effects(self) -> int:
        """Rows of effects: actions, audits and controls, without joint edits."""
        return len(self.action_edits) + len(self.control_edits) + len(self.audit_edits)

    @property
    def num_effect_values(self) -> int:
        """Per-token delta_nll values that will be stored."""
        edits = [edit for alike, _ in self.edits_by_window for edit in alike]
        return sum(self.trajectory.end - edit.first_token for edit in edits)
