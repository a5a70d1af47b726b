"""Units of work: what will be measured, as values that travel to the workers; one part of the store each.

A planned trajectory is either labelled (its actions are measured) or a preference variant (its losses alone
are). Side measurements (drop controls, joint edits, attention) are units of their own that hold the labelled
trajectory they belong to, so that adding one later measures nothing twice. The part id follows from a unit's
content and is never given to it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Self

from mctrace.base_model.flop_counts import Work
from mctrace.collect.planning.action_sampling import FloatArray, SampledAction, Screening
from mctrace.collect.planning.edits import Edit, action_edit, drop_control, droppable_nodes, joint_edit
from mctrace.collect.planning.estimators import EXACT, Estimator
from mctrace.collect.planning.forward_passes import baseline_pass, plan_passes
from mctrace.collect.planning.gradient_passes import gradient_work
from mctrace.collect.planning.part_ids import side_measurement_part_id, trajectory_part_id
from mctrace.context.actions import Action
from mctrace.context.trajectory import Trajectory
from mctrace.datasets.store.provenance import Provenance


@dataclass(frozen=True, slots=True)
class UnitSize:
    """Counts of a unit: all that has to be known of it until it is measured."""

    work: Work
    num_effects: int
    num_effect_values: int
    """per-token delta_nll values that will be stored"""


@dataclass(frozen=True, eq=False)
class PlannedEffect:
    """One edit of one node. `kind` is the action's, and `drop` for a control."""

    kind: str
    sampled: SampledAction
    edit: Edit
    estimator: Estimator


class _Unit(ABC):
    """Edits and counts common to all units."""

    kind: ClassVar[str]
    """kind of the unit's part in the store"""

    @property
    @abstractmethod
    def part_id(self) -> str:
        """Hash of everything that determines the part's content."""

    @abstractmethod
    def exactly(self) -> Self:
        """The same with every action measured exactly, and so under another part id."""

    @abstractmethod
    def without_caches(self) -> Self:
        """The same with entries and edits of its own, which are freed with it."""

    @abstractmethod
    def _measured_on(self) -> Trajectory: ...

    @cached_property
    def effects(self) -> tuple[PlannedEffect, ...]:
        """Effects in the order in which they are measured: by the run's estimator, then exactly."""
        return ()

    @property
    def edits_by_estimator(self) -> list[tuple[Estimator, Sequence[Edit]]]:
        """All edits in the order in which they are measured, by their estimator."""
        groups: dict[Estimator, list[Edit]] = {}
        for effect in self.effects:
            groups.setdefault(effect.estimator, []).append(effect.edit)
        return list(groups.items())

    @property
    def stored_edits(self) -> Sequence[Edit]:
        """The edit behind each stored list of per-token values."""
        return [effect.edit for effect in self.effects]

    def size(self, batch_tokens: int) -> UnitSize:
        """Counts, cached without the edits they need: a run plans many units and measures one at a time."""
        if batch_tokens not in self._sizes:
            self._sizes[batch_tokens] = self.without_caches()._count(batch_tokens)
        return self._sizes[batch_tokens]

    def work(self, batch_tokens: int) -> Work:
        """Work of the base model for the baseline and every edit, in passes of `batch_tokens` entries."""
        return self.size(batch_tokens).work

    @cached_property
    def _sizes(self) -> dict[int, UnitSize]:
        return {}

    def _count(self, batch_tokens: int) -> UnitSize:
        trajectory = self._measured_on()
        work, baseline = Work(), baseline_pass(trajectory).work
        for estimator, edits in self.edits_by_estimator:
            if estimator.name == "gradient":
                work, baseline = work + gradient_work(trajectory, edits, estimator.segment), Work()
                continue
            passes = plan_passes(trajectory, edits, estimator.window, batch_tokens)
            work += sum((p.work for p in passes), start=Work())
        return UnitSize(
            work + baseline,
            len(self.effects),
            sum(trajectory.end - edit.first_token for edit in self.stored_edits),
        )


@dataclass(frozen=True, kw_only=True)
class PlannedTrajectory(_Unit):
    """A trajectory whose baseline loss is stored: a `LabelledTrajectory` or a `PreferenceVariant`."""

    kind: ClassVar[str] = "trajectory"

    document_id: str
    policy: str
    trajectory: Trajectory
    protected_tail: int
    provenance: Provenance

    @property
    def trajectory_id(self) -> str:
        return self.part_id

    def without_caches(self) -> Self:
        return replace(self, trajectory=replace(self.trajectory))

    def _measured_on(self) -> Trajectory:
        return self.trajectory


@dataclass(frozen=True, kw_only=True)
class LabelledTrajectory(PlannedTrajectory):
    """A trajectory whose actions are measured, all legal ones or a sample."""

    actions: tuple[SampledAction, ...]
    num_legal_actions: int
    estimator: Estimator = EXACT
    screening: Screening | None = None
    """draws from `actions`, all estimated, those that are measured exactly as well"""
    audited: tuple[int, ...] = ()
    """indices of actions that are measured exactly as well"""

    @cached_property
    def part_id(self) -> str:
        return trajectory_part_id(
            self.document_id,
            self.policy,
            self.trajectory,
            self.protected_tail,
            self.provenance,
            actions=self.actions,
            audited=self.audited,
            estimator=self.estimator,
            screening=self.screening,
        )

    def exactly(self) -> Self:
        return replace(self, estimator=EXACT, screening=None, audited=())

    @cached_property
    def effects(self) -> tuple[PlannedEffect, ...]:
        every = range(len(self.actions))
        return tuple(self._effect(i, estimator) for i, estimator in self.with_audits(every))

    def screened(self, size_A: FloatArray) -> tuple[PlannedEffect, ...]:
        """The sample that is measured exactly, from the sizes [A] of all actions' estimates."""
        assert self.screening is not None
        sampled = self.screening.sample([one.action for one in self.actions], size_A)
        return tuple(
            PlannedEffect(one.action.kind, one, action_edit(self.trajectory, one.action), EXACT)
            for one in sampled
        )

    def _count(self, batch_tokens: int) -> UnitSize:
        counted = super()._count(batch_tokens)
        if self.screening is None or not self.actions:
            return counted
        # Which actions are drawn is not known before they are estimated: as many, evenly over the context.
        sample = self.effects[:: -(-len(self.effects) // self.screening.size)]
        passes = plan_passes(self.trajectory, [effect.edit for effect in sample], None, batch_tokens)
        return UnitSize(
            sum((p.work for p in passes), start=counted.work),
            counted.num_effects + len(sample),
            counted.num_effect_values
            + sum(self.trajectory.end - effect.edit.first_token for effect in sample),
        )

    def with_audits(self, indices: Sequence[int]) -> list[tuple[int, Estimator]]:
        """Actions of `indices` by the run's estimator, then exactly those of them that are audited."""
        by_estimator = [(i, self.estimator) for i in indices]
        if self.estimator == EXACT:
            return by_estimator
        return [*by_estimator, *((i, EXACT) for i in indices if i in self.audited)]

    def _effect(self, index: int, estimator: Estimator) -> PlannedEffect:
        sampled = self.actions[index]
        edit = action_edit(self.trajectory, sampled.action)
        return PlannedEffect(sampled.action.kind, sampled, edit, estimator)


@dataclass(frozen=True, kw_only=True)
class PreferenceVariant(PlannedTrajectory):
    """One LOD map of a window that is shown in several: preference data, losses without actions."""

    variant_group: str
    """joins a lod0 baseline with its random variants"""

    @cached_property
    def part_id(self) -> str:
        return trajectory_part_id(
            self.document_id,
            self.policy,
            self.trajectory,
            self.protected_tail,
            self.provenance,
            variant_group=self.variant_group,
        )

    def exactly(self) -> Self:
        return self


@dataclass(frozen=True)
class SideMeasurement(_Unit):
    """A measurement beside a trajectory's labels: `PlannedDrops`, `PlannedJoints` or `PlannedAttention`."""

    labelled: LabelledTrajectory

    @cached_property
    def part_id(self) -> str:
        return side_measurement_part_id(self.trajectory_id, self.kind)

    @property
    def trajectory_id(self) -> str:
        return self.labelled.part_id

    @property
    def document_id(self) -> str:
        return self.labelled.document_id

    @property
    def trajectory(self) -> Trajectory:
        return self.labelled.trajectory

    def exactly(self) -> Self:
        return replace(self, labelled=self.labelled.exactly())

    def without_caches(self) -> Self:
        return replace(self, labelled=self.labelled.without_caches())

    def _measured_on(self) -> Trajectory:
        return self.trajectory


@dataclass(frozen=True)
class PlannedDrops(SideMeasurement):
    """Drop controls: each measured action's span left out, so that what a gist loses can be told from what
    its text was worth."""

    kind: ClassVar[str] = "drops"

    @cached_property
    def effects(self) -> tuple[PlannedEffect, ...]:
        actions = self.labelled.actions
        droppable = set(droppable_nodes(self.trajectory, [sampled.action for sampled in actions]))
        dropped = [i for i, sampled in enumerate(actions) if sampled.action.node in droppable]
        return tuple(
            self._effect(actions[i], estimator) for i, estimator in self.labelled.with_audits(dropped)
        )

    def _effect(self, sampled: SampledAction, estimator: Estimator) -> PlannedEffect:
        control = drop_control(self.trajectory, sampled.action.node)
        return PlannedEffect("drop", sampled, action_edit(self.trajectory, control), estimator)


@dataclass(frozen=True)
class PlannedJoints(SideMeasurement):
    """Sets of actions that are measured together, and each of their actions exactly and alone."""

    kind: ClassVar[str] = "joints"

    joints: tuple[tuple[Action, ...], ...]

    @cached_property
    def part_id(self) -> str:
        return side_measurement_part_id(self.trajectory_id, self.kind, self.joints)

    @cached_property
    def joint_edits(self) -> tuple[Edit, ...]:
        return tuple(joint_edit(self.trajectory, actions) for actions in self.joints)

    @cached_property
    def members(self) -> tuple[Action, ...]:
        """Every action of a joint edit once."""
        return tuple(dict.fromkeys(action for actions in self.joints for action in actions))

    @property
    def edits_by_estimator(self) -> list[tuple[Estimator, Sequence[Edit]]]:
        """The members alone, then the joint edits; all exactly."""
        alone = [action_edit(self.trajectory, action) for action in self.members]
        return [(EXACT, [*alone, *self.joint_edits])]

    @property
    def stored_edits(self) -> Sequence[Edit]:
        """Each joint edit twice: its effect, and the sum of its members' effects."""
        return 2 * self.joint_edits


@dataclass(frozen=True)
class PlannedAttention(SideMeasurement):
    """Attention that the tokens whose loss is read pay to each entry of the baseline."""

    kind: ClassVar[str] = "attention"


WorkUnit = PlannedTrajectory | SideMeasurement
"""One unit of work, and the part of the store it becomes."""
