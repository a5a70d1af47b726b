"""The focus allocator: from scores to edits of a working context that keep it within its budget.

Greedy, as docs/specification/allocator.md#order-of-work describes it: expand what is wanted
most, collapse what is wanted least, in turn, at most `num_edits` a step. What the budget demands is collapsed
whatever its score, before anything else. Pure: a map, candidates and what was done lately go in, edits come
out, and the same input gives the same edits.

Shapes: A candidate actions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mctrace.context.actions import Action, apply_actions
from mctrace.context.allocator_candidates import Candidates
from mctrace.context.lod_map import LODMap
from mctrace.context.tree import Node, TreeShape
from mctrace.errors import ConfigError, LegalityError
from mctrace.ranges import check_range

_EULER_GAMMA = 0.5772156649015329
"""mean of a standard Gumbel variable"""


@dataclass(frozen=True)
class AllocatorConfig:
    """Conversion of scores to edits, in closed loops and for the policy `lensnet`.

    Thresholds and temperature are in score units.
    """

    num_edits: int = 4
    """maximum number of edits per refocus (n_diff); only the budget may ask for more"""
    expand_threshold: float = 0.2
    """score from which a gist is expanded"""
    collapse_threshold: float = 0.2
    """minus the score from which siblings are collapsed"""
    cooldown: int = 2
    """refocuses during which an action on a node is not undone"""
    reversal_threshold: float = 0.4
    """replaces the thresholds for undoing a recent action after its cooldown (hysteresis)"""
    reversal_steps: int = 8
    """refocuses for which an action counts as recent"""
    temperature: float = 0.0
    """spread of the noise put on scores, for exploration; 0: none"""

    def __post_init__(self) -> None:
        check_range("allocator.num_edits", self.num_edits, at_least=0)
        for name in ("expand_threshold", "collapse_threshold", "temperature"):
            check_range(f"allocator.{name}", getattr(self, name), at_least=0)
        check_range("allocator.cooldown", self.cooldown, at_least=0)
        check_range("allocator.reversal_steps", self.reversal_steps, at_least=0)
        lowest = max(self.expand_threshold, self.collapse_threshold)
        check_range("allocator.reversal_threshold", self.reversal_threshold, at_least=lowest)


@dataclass(frozen=True)
class RecentEdits:
    """What was done in the last steps: (step, action), and the number of the step to come.

    Only the opposite action on the same node undoes an action, so a node is all that has to be remembered:
    a gist that was just expanded can be looked into further at once, but not folded up again.
    """

    edits: tuple[tuple[int, Action], ...] = ()
    step: int = 0

    def after(self, done: Sequence[Action], config: AllocatorConfig) -> "RecentEdits":
        """One step later; what no rule asks about any more is forgotten."""
        oldest = self.step + 1 - max(config.cooldown, config.reversal_steps)
        kept = tuple(edit for edit in self.edits if edit[0] >= oldest)
        return RecentEdits((*kept, *((self.step, action) for action in done)), self.step + 1)


NOTHING_RECENT = RecentEdits()


@dataclass(frozen=True)
class Allocation:
    """The map after a step, its edits in order, and how many of them, the first, the budget forced."""

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
    """One step: edits of `lod_map` among `candidates` after which it takes at most `budget` positions.

    A node that was collapsed or expanded in this step has no score yet and is left alone until the next.
    With a temperature τ each choice is a draw from softmax(wish / τ) over what is left (Gumbel noise on the
    wishes), so `generator` is needed. Raises LegalityError when the candidates do not free enough positions.
    """
    wish_A = _wishes(candidates, config, generator)
    blocked_A = _blocked(candidates, wish_A, recent, config)
    choice = _Choice(lod_map.tree, budget - lod_map.num_entries)
    collapses = _by_wish(~candidates.is_expand_A, wish_A)
    free, held = collapses[~blocked_A[collapses]], collapses[blocked_A[collapses]]
    to_collapse = _Queue(candidates, free, choice)
    num_forced = choice.make_room(to_collapse, _Queue(candidates, held, choice))
    if choice.room < 0:
        raise LegalityError(
            f"the working context takes {lod_map.num_entries} positions and the candidates free too few for "
            f"a budget of {budget}: give a larger budget, a smaller protected tail or a later start"
        )
    wanted = candidates.is_expand_A & ~blocked_A & (wish_A >= config.expand_threshold)
    to_expand = _Queue(candidates, _by_wish(wanted, wish_A), choice)
    to_collapse.stop_before(free[wish_A[free] < config.collapse_threshold])
    choice.alternate(to_expand, to_collapse, config.num_edits)
    edits = tuple(choice.edits)
    return Allocation(apply_actions(lod_map, edits), edits, num_forced, recent.after(edits, config))


class _Choice:
    """The edits chosen so far and the positions that are left."""

    def __init__(self, tree: TreeShape, room: int) -> None:
        self.tree, self.room = tree, room
        self.edits: list[Action] = []
        self._taken: set[Action] = set()
        self._expanded: set[Node] = set()
        self._collapsed_children: set[Node] = set()

    def allows(self, action: Action) -> bool:
        """Not taken yet, and possible: an expanded node is no longer a sibling to collapse, nor is a
        collapsed one there to expand."""
        if action in self._taken:
            return False
        if action.kind == "expand":
            return action.node not in self._collapsed_children
        return self._expanded.isdisjoint(self.tree.children(action.node))

    def take(self, action: Action) -> None:
        self.edits.append(action)
        self._taken.add(action)
        self.room -= action.change_in_positions(self.tree)
        if action.kind == "expand":
            self._expanded.add(action.node)
        else:
            self._collapsed_children.update(self.tree.children(action.node))

    def make_room(self, *queues: "_Queue") -> int:
        """Collapses until nothing is over the budget, first queue first; returns how many it took."""
        for queue in queues:
            while self.room < 0 and (action := queue.peek()):
                self.take(action)
        return len(self.edits)

    def alternate(self, to_expand: "_Queue", to_collapse: "_Queue", num_edits: int) -> None:
        """Expands and collapses in turn; a collapse goes first where the expand does not fit."""
        turn_to_expand = True
        while len(self.edits) < num_edits:
            expand, collapse = to_expand.peek(), to_collapse.peek()
            fits = expand is not None and expand.change_in_positions(self.tree) <= self.room
            if expand is not None and fits and (turn_to_expand or collapse is None):
                self.take(expand)
            elif collapse is not None:
                self.take(collapse)
            else:
                break
            turn_to_expand = self.edits[-1].kind == "collapse"


class _Queue:
    """Candidates in the order of their wishes, less what the choice so far rules out."""

    def __init__(self, candidates: Candidates, order: npt.NDArray[np.int64], choice: _Choice) -> None:
        self._candidates, self._order, self._choice = candidates, order, choice
        self._next = 0
        self._end = len(order)

    def peek(self) -> Action | None:
        """The next candidate that is allowed; None at the end."""
        while self._next < self._end:
            action = self._candidates.actions.action(int(self._order[self._next]))
            if self._choice.allows(action):
                return action
            self._next += 1
        return None

    def stop_before(self, rest: npt.NDArray[np.int64]) -> None:
        """Leaves out the `rest`, which stand last."""
        self._end = len(self._order) - len(rest)


def _wishes(
    candidates: Candidates, config: AllocatorConfig, generator: np.random.Generator | None
) -> npt.NDArray[np.float64]:
    """How much each action is wanted [A]: its score, a collapse's with the sign turned, plus chance."""
    wish_A = np.where(candidates.is_expand_A, candidates.score_A, -candidates.score_A)
    if not config.temperature:
        return wish_A
    if generator is None:
        raise ConfigError("allocator.temperature is above 0: a seeded generator is needed")
    return wish_A + config.temperature * (generator.gumbel(size=len(wish_A)) - _EULER_GAMMA)


def _blocked(
    candidates: Candidates, wish_A: npt.NDArray[np.float64], recent: RecentEdits, config: AllocatorConfig
) -> npt.NDArray[np.bool_]:
    """Actions that would undo a recent one during its cooldown, or without being wanted enough for that."""
    blocked_A = np.zeros(len(wish_A), dtype=bool)
    for step, action in recent.edits:
        age = recent.step - step
        undoes_A = candidates.undoes(action)
        if age <= config.cooldown:
            blocked_A |= undoes_A
        elif age <= config.reversal_steps:
            blocked_A |= undoes_A & (wish_A < config.reversal_threshold)
    return blocked_A


def _by_wish(among_A: npt.NDArray[np.bool_], wish_A: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Places of some candidates, most wanted first; ties keep the candidates' own order."""
    places = np.flatnonzero(among_A)
    return places[np.argsort(-wish_A[places], kind="stable")]
