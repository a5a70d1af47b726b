"""Forward passes of contexts that stay as they were read: which tokens run, planned without the model.

A trajectory's text is read once in full. Then the tokens from the first cursor on run under its map, and for
each edit those from its `first_token` on, with the keys and values that the edit leaves to be seen: R·K + H
tokens at most, whatever the context's length. Adapters read every span again whose anchors they act at.

Shapes: T tokens of the text, L tokens that a row runs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mctrace.base_model.flop_counts import Work
from mctrace.collect.planning.edit_places import EditPlace
from mctrace.context.trajectory import Trajectory


@dataclass(frozen=True)
class KeptPass:
    """One batch of rows that run the tokens [first_token, end - 1) each, of which the outputs are read."""

    members: tuple[int, ...]
    """which of the given edits"""
    first_token: int
    row_length: int
    num_seen: int
    """entries that all rows together see besides their own"""

    @property
    def num_entries(self) -> int:
        return len(self.members) * self.row_length

    @property
    def work(self) -> Work:
        own = self.row_length
        pairs = own * self.num_seen + len(self.members) * own * (own + 1) // 2
        return Work(self.num_entries, self.num_entries, pairs)


def kept_passes(trajectory: Trajectory, places: Sequence[EditPlace], batch_tokens: int) -> Iterator[KeptPass]:
    """Every edit in exactly one pass of at most `batch_tokens` tokens (one row may have more).

    `length_change` of a place is in positions. An edit whose first token is the last one changes nothing
    that is read and is in none.
    """
    by_token: dict[int, list[int]] = {}
    for member, place in enumerate(places):
        by_token.setdefault(place.first_token, []).append(member)
    head, first_cursor = trajectory.head.num_positions, trajectory.first_cursor
    for first_token, members in sorted(by_token.items()):
        row_length = trajectory.end - 1 - first_token
        per_pass = max(1, batch_tokens // max(1, row_length))
        for at in range(0, len(members) if row_length else 0, per_pass):
            chosen = tuple(members[at : at + per_pass])
            before = head + first_token - first_cursor
            num_seen = sum(before + places[member].length_change for member in chosen)
            yield KeptPass(chosen, first_token, row_length, num_seen)


def text_work(trajectory: Trajectory) -> Work:
    """Work of reading the whole text once, every token's loss included."""
    num_text = trajectory.end - 1 - trajectory.head.start
    return Work(num_text, num_text, num_text * (num_text + 1) // 2)


def reading_work(trajectory: Trajectory, read_again: int) -> Work:
    """Work before any edit: the whole text, its end under the map, and `read_again` tokens by adapters."""
    text = text_work(trajectory)
    own, seen = trajectory.end - 1 - trajectory.first_cursor, trajectory.head.num_positions
    # What is read again sees half of the text on average.
    again = Work(read_again, 0, read_again * text.num_recomputed // 2)
    return text + Work(own, own, own * seen + own * (own + 1) // 2) + again


def kept_work(
    trajectory: Trajectory, places: Sequence[EditPlace], batch_tokens: int, *, has_adapters: bool
) -> Work:
    """Work of a unit's reading and of its edits; adapters may have to read the text once for each level."""
    head = trajectory.head
    read_again = head.tree.max_level * (head.cursor - head.start) if has_adapters else 0
    passes = kept_passes(trajectory, places, batch_tokens)
    return sum((one.work for one in passes), start=reading_work(trajectory, read_again))
