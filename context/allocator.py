"""Focus allocator: from scores to edits that keep a working context within its budget.

Greedy (docs/specification/allocator.md#order-of-work): alternately expand the highest and collapse the lowest
scores, at most `num_edits` per step. Collapses that the budget requires come first, whatever their score.
Pure and deterministic: a map, candidates and recent edits in, edits out.

Shapes: A candidate actions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from mctrace.context.actions import Action, apply_actions
from mctrace.context.allocator_candidates import Candidates
from mctrace.context.lod_map import LODMap
from mctrace.context.tree import Node, TreeShape
from mctrace.errors import ConfigError, LegalityError
from mctrace.ranges import NonNegativeFloat, NonNegativeInt, check_range, check_ranges

_EULER_GAMMA = 0.5772156649015329
"""mean of a standard Gumbel variable"""


@dataclass(frozen=True)
class AllocatorConfig:
    """Conversion of scores to edits, in closed loops and for the policy `lensnet`.

    Thresholds and temperature are in score units.
    """

    section: ClassVar[str] = "allocator"

    num_edits: NonNegativeInt = 4
    """maximum number of edits per refocus (n_diff); only the budget may require more"""
    expand_threshold: NonNegativeFloat = 0.2
    """lowest score at which a gist is expanded"""
    collapse_threshold: NonNegativeFloat = 0.2
    """minus the highest score at which siblings are collapsed"""
    cooldown: NonNegativeInt = 2
    """refocuses during which an action on a node is not undone"""
    reversal_threshold: NonNegativeFloat = 0.4
    """threshold for undoing a recent action after its cooldown (hysteresis); at least the other two"""
    reversal_steps: NonNegativeInt = 8
    """refocuses for which an action counts as recent"""
    temperature: NonNegativeFloat = 0.0
    """scale of the Gumbel noise added to scores, for exploration; 0: none"""

    def __post_init__(self) -> None:
        check_ranges(self)
        lowest = max(self.expand_threshold, self.collapse_threshold)
        check_range(f"{self.section}.reversal_threshold", self.reversal_threshold, at_least=lowest)


@dataclass(frozen=True)
class RecentEdits:
    """Edits of the last steps as (step, action), and the number of the next step.

    Only the opposite action on the same node undoes an action. A gist that was just expanded may therefore
    have its children expanded at once, but may not be collapsed again.
    """

    edits: tuple[tuple[int, Action], ...] = ()
    step: int = 0

    def after(self, done: Sequence[Action], config: AllocatorConfig) -> "RecentEdits":
        """State after a step that made the edits `done`; edits too old for any rule are dropped."""
        oldest = self.step + 1 - max(config.cooldown, config.reversal_steps)
        kept = tuple(edit for edit in self.edits if edit[0] >= oldest)
        return RecentEdits((*kept, *((self.step, action) for action in done)), self.step + 1)


NOTHING_RECENT = RecentEdits()


@dataclass(frozen=True)
class Allocation:
    """The map after a step, and its edits in order; the budget required the first `num_forced` of them."""

    lod_map: LODMap
    edits: tuple[Action, ...]
    num_forced: int
    recent: RecentEdits


def allocate(
    lod_map: LODMap,
    candidates: Candidates,
    budget: int,
    config: AllocatorConfig,
    recent: RecentEdits = NOTHING_RECENT,
    generator: np.random.Generator | None = None,
) -> Allocation:
    """One step: choose edits of `lod_map` among `candidates` so that it takes at most `budget` positions.

    Nodes that this step creates have no score yet and are left to the next step. With a temperature τ each
    selection is a draw from softmax(priority / τ) over the remaining actions (Gumbel noise on priorities),
    which needs `generator`. Raises LegalityError when the candidates cannot free enough positions.
    """
    priority_A = _priorities(candidates, config, generator)
    blocked_A = _blocked(candidates, priority_A, recent, config)
    selection = _Selection(lod_map.tree, lod_map.num_positions, budget)
    collapses = _by_priority(~candidates.is_expand_A, priority_A)
    free, held = collapses[~blocked_A[collapses]], collapses[blocked_A[collapses]]
    to_collapse = _Queue(candidates, free, selection)
    num_forced = selection.make_room(to_collapse, _Queue(candidates, held, selection))
    if selection.room < 0:
        raise LegalityError(
            f"the working context takes {lod_map.num_positions} positions and the candidates free too few "
            f"for a budget of {budget}: give a larger budget, a smaller protected tail or a later start"
        )
    wanted = candidates.is_expand_A & ~blocked_A & (priority_A >= config.expand_threshold)
    to_expand = _Queue(candidates, _by_priority(wanted, priority_A), selection)
    to_collapse.stop_before(free[priority_A[free] < config.collapse_threshold])
    selection.alternate(to_expand, to_collapse, config.num_edits)
    edits = tuple(selection.edits)
    return Allocation(apply_actions(lod_map, edits), edits, num_forced, recent.after(edits, config))


class _Selection:
    """The edits selected so far and the positions left."""

    def __init__(self, tree: TreeShape, num_positions: int, budget: int) -> None:
        self.tree, self.room, self._budget = tree, budget - num_positions, budget
        self.edits: list[Action] = []
        self._replaced: set[Node] = set()

    def allows(self, action: Action) -> bool:
        """True if not taken yet and still possible: no entry is replaced twice, and something stays shown."""
        num_positions = self._budget - self.room
        if num_positions + action.change_in_positions(self.tree) < 1:
            return False
        return self._replaced.isdisjoint(action.entries(self.tree))

    def take(self, action: Action) -> None:
        self.edits.append(action)
        self.room -= action.change_in_positions(self.tree)
        self._replaced.update(action.entries(self.tree))

    def make_room(self, *queues: "_Queue") -> int:
        """Collapse until the budget is met, earlier queues first; returns the number of edits."""
        for queue in queues:
            while self.room < 0 and (action := queue.peek()):
                self.take(action)
        return len(self.edits)

    def alternate(self, to_expand: "_Queue", to_collapse: "_Queue", num_edits: int) -> None:
        """Take expands and collapses in turn; a collapse when the next expand does not fit, and a cheaper
        expand when there is no collapse left."""
        turn_to_expand = True
        while len(self.edits) < num_edits:
            collapse = to_collapse.peek()
            expand = to_expand.peek() if collapse else to_expand.peek(at_most=self.room)
            fits = expand is not None and expand.change_in_positions(self.tree) <= self.room
            if expand is not None and fits and (turn_to_expand or collapse is None):
                self.take(expand)
            elif collapse is not None:
                self.take(collapse)
            else:
                break
            turn_to_expand = not self.edits[-1].shows_more


class _Queue:
    """Candidates by priority, without those that the selection so far rules out."""

    def __init__(self, candidates: Candidates, order: npt.NDArray[np.int64], selection: _Selection) -> None:
        self._candidates, self._order, self._selection = candidates, order, selection
        self._next = 0
        self._end = len(order)

    def peek(self, at_most: int | None = None) -> Action | None:
        """The next allowed candidate, of those that add `at_most` positions when given; None at the end."""
        positions_A = self._candidates.positions_A
        while self._next < self._end:
            place = int(self._order[self._next])
            if at_most is None or positions_A[place] <= at_most:
                action = self._candidates.actions.action(place)
                if self._selection.allows(action):
                    return action
            self._next += 1
        return None

    def stop_before(self, rest: npt.NDArray[np.int64]) -> None:
        """Drop the `rest`, which are the last ones."""
        self._end = len(self._order) - len(rest)


def _priorities(
    candidates: Candidates, config: AllocatorConfig, generator: np.random.Generator | None
) -> npt.NDArray[np.float64]:
    """Priority of each action [A]: its score, negated for collapses, plus Gumbel noise."""
    priority_A = np.where(candidates.is_expand_A, candidates.score_A, -candidates.score_A)
    if not config.temperature:
        return priority_A
    if generator is None:
        raise ConfigError("allocator.temperature is above 0: a seeded generator is needed")
    return priority_A + config.temperature * (generator.gumbel(size=len(priority_A)) - _EULER_GAMMA)


def _blocked(
    candidates: Candidates, priority_A: npt.NDArray[np.float64], recent: RecentEdits, config: AllocatorConfig
) -> npt.NDArray[np.bool_]:
    """Actions [A] that would undo a recent one during its cooldown, or below the reversal threshold."""
    blocked_A = np.zeros(len(priority_A), dtype=bool)
    for step, action in recent.edits:
        age = recent.step - step
        undoes_A = candidates.undoes(action)
        if age <= config.cooldown:
            blocked_A |= undoes_A
        elif age <= config.reversal_steps:
            blocked_A |= undoes_A & (priority_A < config.reversal_threshold)
    return blocked_A


def _by_priority(
    among_A: npt.NDArray[np.bool_], priority_A: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """Positions of the candidates `among_A` by descending priority; ties keep the candidates' order."""
    places = np.flatnonzero(among_A)
    return places[np.argsort(-priority_A[places], kind="stable")]
