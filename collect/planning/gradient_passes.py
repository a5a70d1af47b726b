"""Passes of the gradient estimator: the stretches of loss that it differentiates, and the work that takes."""

from collections.abc import Sequence
from itertools import pairwise

from mctrace.base_model.flop_counts import Work
from mctrace.collect.planning.edit_places import ContextPlaces, EditPlace
from mctrace.collect.planning.edits import Edit
from mctrace.context.trajectory import Trajectory

STRETCHES_AT_ONCE = 8
"""gradients in memory together"""


def stretches_of(trajectory: Trajectory, segment: int | None = None) -> list[tuple[int, int]]:
    """Stretches [first, end) of the tokens from the first cursor on whose mean effect the estimator gives.

    They are cut wherever a cursor's horizon begins or ends, and every `segment` tokens if that is given.
    """
    first, end, horizon = trajectory.first_cursor, trajectory.end, trajectory.horizon
    cuts = {cursor + lag - first for cursor in trajectory.cursors for lag in (0, horizon)}
    if segment is not None:
        cuts |= set(range(0, end - first, segment))
    return list(pairwise(sorted(cuts)))


def stretch_lengths(trajectory: Trajectory, edit: Edit, segment: int | None) -> list[int]:
    """Tokens of each stretch of an effect from the edit's `first_token` on."""
    skipped = edit.first_token - trajectory.first_cursor
    stretches = stretches_of(trajectory, segment)
    return [end - max(first, skipped) for first, end in stretches if end > skipped]


def gradient_work(context: ContextPlaces, edits: Sequence[Edit | EditPlace], segment: int | None) -> Work:
    """Work of the base model: the recorded pass, each layer once more, and back for every stretch.

    A backward pass takes as much as a forward one for the entries, which need no weights' gradients, and
    twice as much for the attended pairs, beside the weights that all stretches share.
    """
    trajectory, num_entries = context.trajectory, context.num_entries - 1
    # An edit's new entries observe the pass.
    num_new = [edit.length_change + edit.end_entry - edit.first_entry for edit in edits]
    num_stretches = len(stretches_of(trajectory, segment))
    own_pairs = num_entries * (num_entries + 1) // 2
    before = sum(new * edit.first_entry for new, edit in zip(num_new, edits, strict=True))
    after = sum(new * max(0, num_entries - edit.end_entry) for new, edit in zip(num_new, edits, strict=True))
    num_replays = -(-num_stretches // STRETCHES_AT_ONCE)
    return Work(
        num_entries * (1 + num_replays + num_stretches) + sum(num_new),
        2 * (trajectory.end - trajectory.first_cursor),
        own_pairs + before + (own_pairs + after) * (num_replays + 4 * num_stretches) // 2,
    )
