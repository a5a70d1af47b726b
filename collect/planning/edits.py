"""Edits of a baseline context: what each counterfactual replaces, by what, and where its effect begins.

Every action edits the LOD map. A drop is an action where blocks may be absent, and elsewhere a control that
separates what a gist loses from what its text was worth. A joint edit does several actions at once, so that
additivity can be studied. To the evaluator they are the same thing: entries that give way to others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mctrace.context.actions import Action, apply_actions
from mctrace.context.lod_map import Entries
from mctrace.context.trajectory import Trajectory
from mctrace.context.tree import Node
from mctrace.errors import LegalityError

_JOINT_FAILURES = 16
"""draws without a new set after which sampling stops"""


@dataclass(frozen=True, eq=False)
class Edit:
    """Entries [first_entry, end_entry) of the baseline give way to `replacement`.

    Its effect is read from `first_token` on: max(first cursor, end of the edited span).
    """

    first_entry: int
    end_entry: int
    replacement: Entries
    first_token: int

    @property
    def length_change(self) -> int:
        """Entries the context grows by (an expand) or shrinks by (negative)."""
        return len(self.replacement) - (self.end_entry - self.first_entry)


def action_edit(trajectory: Trajectory, action: Action) -> Edit:
    """One action alone; raises LegalityError when the map does not allow it."""
    return joint_edit(trajectory, [action])


def joint_edit(trajectory: Trajectory, actions: Sequence[Action]) -> Edit:
    """Several actions at once.

    Raises LegalityError when one of them is not allowed after the others, and when together they leave
    nothing before the first token whose loss is read.
    """
    edited = apply_actions(trajectory.context, actions)
    first, end = _span(trajectory, [action.node for action in actions])
    before, after = trajectory.entries, trajectory.as_read(edited)
    first_token = trajectory.first_token_after(end)
    if after.first_token_N[0] >= first_token:
        raise LegalityError(f"cannot {actions[0].kind} {actions[0].node}: nothing would be left before {end}")
    return Edit(
        before.index_of_token(first),
        before.index_of_token(end),
        after.sliced(slice(after.index_of_token(first), after.index_of_token(end))),
        first_token,
    )


def drop_control(trajectory: Trajectory, node: Node) -> Action:
    """The drop that leaves out the entries of `node`, whatever their level is."""
    level = trajectory.context.levels[trajectory.context.blocks_of(node)][0]
    return Action("drop", node, int(level))


def span_drop_edit(trajectory: Trajectory, first: int, end: int) -> Edit:
    """Tokens [first, end) left out, wherever blocks begin.

    Raises LegalityError for a span that cuts through an entry or that leaves nothing before the first token
    whose loss is read.
    """
    span = f"tokens [{first}, {end})"
    entries = trajectory.entries
    if first < trajectory.head.start or end > trajectory.last_cursor:
        raise LegalityError(f"{span} is not inside the context")
    if not {first, end} <= set(entries.first_token_N.tolist()):
        raise LegalityError(f"cannot drop {span}: it is part of a coarser entry")
    if first == trajectory.head.start and end >= trajectory.first_cursor:
        raise LegalityError(f"cannot drop {span}: nothing would be left before the tokens after it")
    first_entry, end_entry = entries.index_of_token(first), entries.index_of_token(end)
    return Edit(first_entry, end_entry, entries.sliced(slice(0, 0)), trajectory.first_token_after(end))


def span_gist_edit(trajectory: Trajectory, first: int, node: Node) -> Edit:
    """Tokens from `first` to the end of `node` give way to the node's gist.

    Later than the node's own beginning, `first` keeps the tokens before it beside the gist: a context's first
    token, to which every later one attends. Raises LegalityError as `span_drop_edit` does.
    """
    begin, end = trajectory.head.tree.span(node)
    if not begin <= first < end:
        raise LegalityError(f"token {first} is not inside {node}")
    dropped = span_drop_edit(trajectory, first, end)
    columns = (node.level, node.index, begin, end - begin)
    return replace(dropped, replacement=Entries(*(np.array([value]) for value in columns)))


def no_edit(trajectory: Trajectory, entry: int) -> Edit:
    """Nothing changes, but everything from `entry` on is computed again: the measured effect is numerical
    noise."""
    return Edit(entry, entry, trajectory.entries.sliced(slice(0, 0)), trajectory.first_cursor)


def shown_gists(trajectory: Trajectory, edits: Sequence[Edit]) -> list[Node]:
    """Every gist of the context and of what edits put into it once, by level and place."""
    found = set[Node]()
    for entries in (trajectory.context.entries, *(edit.replacement for edit in edits)):
        is_gist_N = entries.level_N > 0
        found |= set(map(Node, entries.level_N[is_gist_N].tolist(), entries.index_N[is_gist_N].tolist()))
    return sorted(found)


def droppable_nodes(trajectory: Trajectory, actions: Sequence[Action]) -> list[Node]:
    """Nodes of `actions` whose drop remains to be measured as a control, each once, by place and level."""
    measured = {action.node for action in actions if action.kind in ("insert", "drop")}
    nodes = sorted({action.node for action in actions} - measured, key=trajectory.head.tree.span)
    return [node for node in nodes if trajectory.can_drop(node)]


def sample_joint(
    trajectory: Trajectory, actions: Sequence[Action], size: int, count: int, generator: np.random.Generator
) -> list[tuple[Action, ...]]:
    """Up to `count` different sets of `size` of the `actions`, their spans disjoint, each sorted by place.

    Fewer where there are not enough: draws that repeat or overlap too often end it.
    """
    span = trajectory.head.tree.span
    found: dict[tuple[Action, ...], None] = {}
    failures = 0
    while len(found) < count and failures < _JOINT_FAILURES:
        chosen: list[Action] = []
        for i in generator.permutation(len(actions)):
            first, end = span(actions[i].node)
            others = (span(action.node) for action in chosen)
            if all(end <= other_first or other_end <= first for other_first, other_end in others):
                chosen.append(actions[i])
            if len(chosen) == size:
                break
        joint = tuple(sorted(chosen, key=lambda action: span(action.node)))
        if len(chosen) < size or joint in found:
            failures += 1
        else:
            found[joint] = None
    return list(found)


def _span(trajectory: Trajectory, nodes: Sequence[Node]) -> tuple[int, int]:
    spans = [trajectory.head.tree.span(node) for node in nodes]
    return min(first for first, _ in spans), max(end for _, end in spans)
