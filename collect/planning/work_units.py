"""Planned trajectories: what will be measured, as values that travel to the workers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from mctrace.base_model.sizes import Work
from mctrace.collect.planning.action_sampling import SampledAction
from mctrace.collect.planning.edits import Edit, action_edit, drop_edit, droppable_nodes, joint_edit
from mctrace.collect.planning.passes import baseline_pass, plan_passes
from mctrace.context.actions import Action
from mctrace.context.trajectory import Trajectory

Unit = Literal["trajectory", "drops", "joints", "attention"]
"""What a part holds of a trajectory: its labels, or a side measurement that can be added any time."""


@dataclass(frozen=True, slots=True)
class PlannedSize:
    """What a planned trajectory takes: all that has to be known of it until it is measured."""

    work: Work
    num_effects: int
    num_effect_values: int
    """per-token delta_nll values that will be stored"""


@dataclass(frozen=True)
class PlannedTrajectory:
    """One unit of work: a trajectory, what to measure on it, and the part id that follows.

    The labels are one unit, and each side measurement is another that names the trajectory it belongs to; so
    that asking for one later measures nothing twice. `variant_group` joins a lod0 baseline with its random
    variants (preference data); those have no actions.
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
    unit: Unit = "trajectory"
    trajectory_id: str = ""
    """part id of the labels' unit; its own for that unit itself"""
    joints: tuple[tuple[Action, ...], ...] = ()
    """unit joints: sets of actions that are measured together"""

    @property
    def estimator(self) -> str:
        return "exact" if self.estimator_window is None else "windowed"

    @cached_property
    def measured(self) -> tuple["PlannedEffect", ...]:
        """The unit's effects, in the order in which they are measured."""
        return tuple(self._effects())

    @cached_property
    def joint_edits(self) -> tuple[Edit, ...]:
        return tuple(joint_edit(self.trajectory, actions) for actions in self.joints)

    @cached_property
    def joint_members(self) -> tuple[Action, ...]:
        """Every action of a joint edit once: measured again beside it, exactly and alone."""
        return tuple(dict.fromkeys(action for actions in self.joints for action in actions))

    @property
    def edits_by_window(self) -> list[tuple[Sequence[Edit], int | None]]:
        """Everything to measure, as it is measured: by the run's estimator first, then exactly."""
        by_run = [effect.edit for effect in self.measured if effect.estimator_window is not None]
        exact = [effect.edit for effect in self.measured if effect.estimator_window is None]
        alone = [action_edit(self.trajectory, action) for action in self.joint_members]
        return [(by_run, self.estimator_window), ([*exact, *alone, *self.joint_edits], None)]

    def size(self, batch_tokens: int) -> PlannedSize:
        """Worked out once, without keeping the edits that it takes: a run plans many trajectories and
        measures one at a time."""
        if batch_tokens not in self._sizes:
            self._sizes[batch_tokens] = self.unmeasured()._count(batch_tokens)
        return self._sizes[batch_tokens]

    def work(self, batch_tokens: int) -> Work:
        """What the base model has to do for the baseline and every edit, in passes of `batch_tokens`."""
        return self.size(batch_tokens).work

    def unmeasured(self) -> "PlannedTrajectory":
        """The same, with entries and edits of its own, which go when it goes."""
        return replace(self, trajectory=replace(self.trajectory))

    @cached_property
    def _sizes(self) -> dict[int, PlannedSize]:
        return {}

    def _count(self, batch_tokens: int) -> PlannedSize:
        passes = [baseline_pass(self.trajectory)]
        for edits, window in self.edits_by_window:
            passes += plan_passes(self.trajectory, edits, window, batch_tokens)
        stored = [effect.edit for effect in self.measured] + 2 * list(self.joint_edits)
        return PlannedSize(
            sum((p.work for p in passes), start=Work()),
            len(self.measured),
            sum(self.trajectory.end - edit.first_token for edit in stored),
        )

    def _effects(self) -> Iterator["PlannedEffect"]:
        """By the run's estimator first, then what is measured exactly besides."""
        window, every = self.estimator_window, range(len(self.actions))
        if self.unit == "trajectory":
            yield from (self._action(i, window) for i in every)
            if window is not None:
                yield from (self._action(i, None) for i in self.audited)
        elif self.unit == "drops":
            droppable = set(droppable_nodes(self.trajectory, [s.action for s in self.actions]))
            dropped = [i for i in every if self.actions[i].action.node in droppable]
            yield from (self._drop(i, window) for i in dropped)
            if window is not None:
                yield from (self._drop(i, None) for i in dropped if i in self.audited)

    def _action(self, index: int, window: int | None) -> "PlannedEffect":
        sampled = self.actions[index]
        return PlannedEffect(
            sampled.action.kind, sampled, action_edit(self.trajectory, sampled.action), window
        )

    def _drop(self, index: int, window: int | None) -> "PlannedEffect":
        sampled = self.actions[index]
        return PlannedEffect("drop", sampled, drop_edit(self.trajectory, sampled.action.node), window)


@dataclass(frozen=True, eq=False)
class PlannedEffect:
    """One edit of one node. `kind` is the action's, or `drop` for a control; `estimator_window` None is
    exact."""

    kind: str
    sampled: SampledAction
    edit: Edit
    estimator_window: int | None
