"""Forward passes of a baseline and its edits: which entries the base model runs, planned without the model.

Everything before an edit is the same in the counterfactual, so its keys and values come from the baseline's
cache. What remains is one pass over [edit ... last cursor + H), which serves every cursor of the trajectory
at once. The windowed estimator also takes over what lies between `window` entries after the edit and the
first token whose loss is read.

Several edits share a batch when their rows can be made equally long without padding or a mask: exact ones by
beginning at the earliest edit of the group, windowed ones as they are. What a row computes of its own edit
never depends on the others.

`mctrace plan` adds up these counts from the edits' places alone, the evaluator runs them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from mctrace.base_model.flop_counts import Work
from mctrace.collect.planning.edit_places import ContextPlaces, EditPlace
from mctrace.collect.planning.edits import Edit, no_edit
from mctrace.context.trajectory import Trajectory

_MAX_WASTE = 0.1
"""share of a batch's entries that may be computed only because its rows begin and end together"""


@dataclass(frozen=True)
class Row:
    """Entries that run for one edit; indices are those of the baseline.

    [crop, kept_first), with the edit in there, then [kept_end, last_run). Entries [0, crop) and
    [kept_first, kept_end) come from the baseline's cache.
    """

    member: int
    """which of the given edits"""
    crop: int
    kept_first: int
    kept_end: int

    @property
    def is_windowed(self) -> bool:
        return self.kept_first < self.kept_end


@dataclass(frozen=True)
class Pass:
    """One batch of equally long rows. The outputs of [first_read, last_run) are read."""

    rows: tuple[Row, ...]
    length_change: int
    first_read: int
    last_run: int
    num_needed: int
    """entries that the edits would run each by itself"""

    @property
    def members(self) -> tuple[int, ...]:
        return tuple(row.member for row in self.rows)

    @property
    def num_before(self) -> int:
        """Entries a row runs before the kept ones."""
        return self.rows[0].kept_first + self.length_change - self.rows[0].crop

    @property
    def row_length(self) -> int:
        return self.num_before + self.last_run - self.rows[0].kept_end

    @property
    def num_read(self) -> int:
        """Tokens whose loss is read per row; they follow a row's last entries."""
        return self.last_run - self.first_read

    @property
    def num_entries(self) -> int:
        """Entries through the layers, over all rows."""
        return len(self.rows) * self.row_length

    @property
    def work(self) -> Work:
        """Each own entry attends to the prefix and to those before it, the later ones to what was kept."""
        own = self.row_length
        pairs = sum(
            own * row.crop
            + own * (own + 1) // 2
            + (self.last_run - row.kept_end) * (row.kept_end - row.kept_first)
            for row in self.rows
        )
        return Work(self.num_entries, len(self.rows) * self.num_read, pairs)

    def renumbered(self, indices: Sequence[int]) -> "Pass":
        """The same pass with its members renumbered by `indices`."""
        return replace(self, rows=tuple(replace(row, member=indices[row.member]) for row in self.rows))


def baseline_pass(trajectory: Trajectory) -> Pass:
    """The unedited context with its tail, reading every token from the first cursor on.

    The last token does not run: its output predicts nothing that is read.
    """
    (whole,) = plan_passes(trajectory, [no_edit(trajectory, 0)], None, 1)
    return whole


def plan_passes(
    trajectory: Trajectory, edits: Sequence[Edit], window: int | None, batch_tokens: int
) -> list[Pass]:
    """Every edit in exactly one pass of at most `batch_tokens` entries (one row may have more).

    `window` is that of the windowed estimator, None the exact one.
    """
    entries = trajectory.entries
    places = [
        EditPlace(
            edit.first_entry,
            edit.end_entry,
            edit.length_change,
            edit.first_token,
            entries.index_of_token(edit.first_token) - 1,
        )
        for edit in edits
    ]
    last_run = len(entries) - 1
    return [
        _pass(group, last_run, num_needed)
        for group, num_needed in _groups(places, last_run, window, batch_tokens)
    ]


def count_work(
    places: ContextPlaces, groups: Sequence[tuple[int | None, Sequence[EditPlace]]], batch_tokens: int
) -> Work:
    """Work of edits by their estimator's window (None: exactly), as `plan_passes` would run them."""
    last_run = places.num_entries - 1
    num_recomputed = num_read = num_pairs = 0
    for window, edits in groups:
        for group, _ in _groups(edits, last_run, window, batch_tokens):
            own, first = _row_length(group[0], last_run), group[0]
            num_recomputed += own * len(group)
            num_read += (last_run - first.first_read) * len(group)
            num_pairs += own * (own + 1) // 2 * len(group)
            if first.is_windowed:
                num_pairs += sum(
                    own * r.crop + (last_run - r.kept_end) * (r.kept_end - r.kept_first) for r in group
                )
            else:
                num_pairs += own * first.crop * len(group)
    return Work(num_recomputed, num_read, num_pairs)


def _groups(
    places: Sequence[EditPlace], last_run: int, window: int | None, batch_tokens: int
) -> Iterator[tuple[list["_SortedRow"], int]]:
    """The rows of each pass, and the entries that they would run each by itself."""
    # Alike ones side by side, by place.
    rows = sorted(_row(place, member, last_run, window) for member, place in enumerate(places))
    group: list[_SortedRow] = []
    num_needed = 0
    for row in rows:
        length = _row_length(row, last_run)
        if group and _joins(row, length, group, num_needed, last_run, batch_tokens):
            num_needed += length
        else:
            if group:
                yield group, num_needed
            group, num_needed = [], length
        group.append(row)
    if group:
        yield group, num_needed


class _SortedRow(NamedTuple):
    """A `Row` and its pass's properties, in the order in which rows are put side by side."""

    length_change: int
    first_read: int
    is_windowed: bool
    crop: int
    member: int
    kept_first: int
    kept_end: int


def _row(place: EditPlace, member: int, last_run: int, window: int | None) -> _SortedRow:
    first_entry, end_entry, change, _, first_read = place
    # After a drop at the tail the first loss is read at the entry before it.
    crop = min(first_read + change, first_entry)
    if window is not None and end_entry + window < first_read:
        return _SortedRow(change, first_read, True, crop, member, end_entry + window, first_read)
    return _SortedRow(change, first_read, False, crop, member, last_run, last_run)


def _row_length(row: _SortedRow, last_run: int) -> int:
    return row.kept_first + row.length_change - row.crop + last_run - row.kept_end


def _joins(
    row: _SortedRow,
    length: int,
    group: Sequence[_SortedRow],
    num_needed: int,
    last_run: int,
    batch_tokens: int,
) -> bool:
    """Whether a row can run in a group's batch: not where that takes more than `batch_tokens` entries or
    wastes too many. Exact rows begin at the group's first edit, windowed ones are equally long."""
    first = group[0]
    if row[:3] != first[:3]:
        return False
    longest = _row_length(first, last_run)
    if row.is_windowed and length != longest:
        return False
    num_entries = (len(group) + 1) * longest
    return num_entries <= batch_tokens and num_needed + length >= (1 - _MAX_WASTE) * num_entries


def _pass(group: Sequence[_SortedRow], last_run: int, num_needed: int) -> Pass:
    first = group[0]
    rows = tuple(
        Row(row.member, row.crop if row.is_windowed else first.crop, row.kept_first, row.kept_end)
        for row in group
    )
    return Pass(rows, first.length_change, first.first_read, last_run, num_needed)
