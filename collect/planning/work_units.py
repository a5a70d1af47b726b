"""Units of work: what will be measured, as values that travel to the workers; one part of the store each.

A planned trajectory is either labelled (its actions are measured) or a preference variant (its losses alone
are). Side measurements (drop controls, joint edits, attention) are units of their own that hold the labelled
trajectory they belong to, so that adding one later measures nothing twice. The part id follows from a unit's
content and is never given to it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import ClassVar, NamedTuple, Self

from mctrace.base_model.flop_counts import Work
from mctrace.collect.planning.action_sampling import FloatArray, SampledAction, Screening
from mctrace.collect.planning.edit_places import ContextPlaces, EditPlace
from mctrace.collect.planning.edits import Edit, action_edit, drop_control, droppable_nodes, joint_edit
from mctrace.collect.planning.estimators import EXACT, Estimator
from mctrace.collect.planning.forward_passes import count_work
from mctrace.collect.planning.gradient_passes import gradient_work
from mctrace.collect.planning.kept_passes import kept_work, text_work
from mctrace.collect.planning.part_ids import side_measurement_part_id, trajectory_part_id
from mctrace.context.actions import Action
from mctrace.context.trajectory import Trajectory
from mctrace.datasets.store.provenance import Provenance
from mctrace.gists.network.anchored_gists import has_adapters, is_extract


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


_PlacesByEstimator = list[tuple[Estimator, Sequence[EditPlace]]]
"""in the order in which they are measured"""


class _Counted(NamedTuple):
    """Places of all edits of a unit, and what is stored of them."""

    places: _PlacesByEstimator
    num_effects: int
    num_values: int


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

    @property
    @abstractmethod
    def measured_with(self) -> Provenance:
        """Model, gists and semantics of its numbers."""

    @abstractmethod
    def on(self, trajectory: Trajectory) -> Self:
        """The same edits of `trajectory`, which differs in how its gists are read."""

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

    def _places(self, context: ContextPlaces) -> _Counted:
        """Places of all edits, found without building one."""
        return _Counted([], 0, 0)

    def size(self, batch_tokens: int) -> UnitSize:
        """Counts from lengths, kept with the unit without the entries they need: a run plans many units and
        measures one at a time."""
        if batch_tokens not in self._sizes:
            bare = self.without_caches()
            context = ContextPlaces(bare._measured_on())
            places, num_effects, num_values = bare._places(context)
            work = _work(context, places, batch_tokens, self.measured_with)
            self._sizes[batch_tokens] = UnitSize(work, num_effects, num_values)
        return self._sizes[batch_tokens]

    def work(self, batch_tokens: int) -> Work:
        """Work of the base model for the baseline and every edit, in passes of `batch_tokens` entries."""
        return self.size(batch_tokens).work

    @cached_property
    def _sizes(self) -> dict[int, UnitSize]:
        return {}

    def _counted(self, places: _PlacesByEstimator) -> _Counted:
        """An effect for each place."""
        end, each = self._measured_on().end, [place for _, group in places for place in group]
        return _Counted(places, len(each), sum(end - place.first_token for place in each))


def _work(
    context: ContextPlaces, places: _PlacesByEstimator, batch_tokens: int, provenance: Provenance
) -> Work:
    """Work of the baseline and of the edits; a gradient's recorded pass is a baseline as well."""
    if provenance.semantics == "kept":
        every = [place for _, group in places for place in group]
        adapted = has_adapters(provenance.gist_hash)
        return kept_work(context.trajectory, every, batch_tokens, has_adapters=adapted)
    gradients = [(estimator, group) for estimator, group in places if estimator.name == "gradient" and group]
    passes = [(estimator.window, group) for estimator, group in places if estimator.name != "gradient"]
    if not gradients:
        passes.insert(0, (None, [context.baseline()]))
    # Which tokens stand for a span is found by reading the text.
    text = text_work(context.trajectory) if is_extract(provenance.gist_hash) else Work()
    work = sum((gradient_work(context, group, one.segment) for one, group in gradients), start=text)
    return work + count_work(context, passes, batch_tokens)


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

    @property
    def measured_with(self) -> Provenance:
        return self.provenance

    def on(self, trajectory: Trajectory) -> Self:
        return replace(self, trajectory=trajectory)


@dataclass(frozen=True)
class RuntimeLog:
    """What a live runtime noted beside a map (trace files). Labels do not depend on it, nor do part ids."""

    logged_at: datetime | None = None
    actions_taken: tuple[Action, ...] | None = None
    """actions that the runtime took in this state, in order; None where it did not say"""


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
    log: RuntimeLog = RuntimeLog()

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

    def with_audits(self, indices: Sequence[int]) -> list[tuple[int, Estimator]]:
        """Actions of `indices` by the run's estimator, then exactly those of them that are audited."""
        by_estimator = [(i, self.estimator) for i in indices]
        if self.estimator == EXACT:
            return by_estimator
        return [*by_estimator, *((i, EXACT) for i in indices if i in self.audited)]

    def _places(self, context: ContextPlaces) -> _Counted:
        every = context.actions([sampled.action for sampled in self.actions])
        counted = self._counted(self.by_estimator(every, range(len(every))))
        if self.screening is None or not every:
            return counted
        # Which actions are drawn is not known before they are estimated: as many, evenly over the context.
        sample = every[:: -(-len(every) // self.screening.size)]
        return self._counted([*counted.places, (EXACT, sample)])

    def by_estimator(self, places: Sequence[EditPlace], indices: Sequence[int]) -> _PlacesByEstimator:
        """Places of the actions `indices`: by the run's estimator, then those that are audited."""
        if self.estimator == EXACT:
            return [(EXACT, places)]
        audited = [place for i, place in zip(indices, places, strict=True) if i in self.audited]
        return [(self.estimator, places), (EXACT, audited)]

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

    @property
    def measured_with(self) -> Provenance:
        return self.labelled.provenance

    def on(self, trajectory: Trajectory) -> Self:
        return replace(self, labelled=self.labelled.on(trajectory))


@dataclass(frozen=True)
class PlannedDrops(SideMeasurement):
    """Drop controls: each measured action's span left out, so that what a gist loses can be told from what
    its text was worth."""

    kind: ClassVar[str] = "drops"

    @cached_property
    def effects(self) -> tuple[PlannedEffect, ...]:
        actions = self.labelled.actions
        dropped = self.labelled.with_audits(self._dropped)
        return tuple(self._effect(actions[i], estimator) for i, estimator in dropped)

    @property
    def _dropped(self) -> list[int]:
        """Indices of the actions whose span can be left out."""
        actions = [sampled.action for sampled in self.labelled.actions]
        droppable = set(droppable_nodes(self.trajectory, actions))
        return [i for i, action in enumerate(actions) if action.node in droppable]

    def _places(self, context: ContextPlaces) -> _Counted:
        dropped = self._dropped
        places = context.drops([self.labelled.actions[i].action.node for i in dropped])
        return self._counted(self.labelled.by_estimator(places, dropped))

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

    def _places(self, context: ContextPlaces) -> _Counted:
        """Of each joint edit two lists are stored: its effect, and the sum of its members' effects."""
        joint = context.joints(self.joints)
        num_values = self._counted([(EXACT, joint)]).num_values
        return _Counted([(EXACT, [*context.actions(self.members), *joint])], 0, 2 * num_values)


@dataclass(frozen=True)
class PlannedAttention(SideMeasurement):
    """Attention that the tokens whose loss is read pay to each entry of the baseline."""

    kind: ClassVar[str] = "attention"


WorkUnit = PlannedTrajectory | SideMeasurement
"""One unit of work, and the part of the store it becomes."""
