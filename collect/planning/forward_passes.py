"""Forward passes of a baseline and its edits: which entries the base model runs, planned without the model.

Everything before an edit is the same in the counterfactual, so its keys and values come from the baseline's
cache. What remains is one pass over [edit ... last cursor + H), which serves every cursor of the trajectory
at once. The windowed estimator also takes over what lies between `window` entries after the edit and the
first token whose loss is read.

Several edits share a batch when their rows can be made equally long without padding or a mask: exact ones by
beginning at the earliest edit of the group, windowed ones as they are. What a row computes of its own edit
never depends on the others.

`mctrace plan` adds up these counts, the evaluator runs them; nothing is counted twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mctrace.base_model.flop_counts import Work
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

    def joined_by(self, other: "Pass", batch_tokens: int) -> "Pass | None":
        """Both in one batch, or None where that takes more than `batch_tokens` entries or wastes too many."""
        rows = self.rows + other.rows
        alike = (self.length_change, self.first_read) == (other.length_change, other.first_read)
        if not alike or self.rows[0].is_windowed != other.rows[0].is_windowed:
            return None
        if self.rows[0].is_windowed:
            if self.row_length != other.row_length:
                return None
        else:
            crop = min(row.crop for row in rows)
            rows = tuple(replace(row, crop=crop) for row in rows)
        joined = replace(self, rows=rows, num_needed=self.num_needed + other.num_needed)
        fits = joined.num_entries <= batch_tokens
        return joined if fits and joined.num_needed >= (1 - _MAX_WASTE) * joined.num_entries else None


def baseline_pass(trajectory: Trajectory) -> Pass:
    """The unedited context with its tail, reading every token from the first cursor on.

    The last token does not run: its output predicts nothing that is read.
    """
    return _alone(trajectory, no_edit(trajectory, 0), 0, None)


def plan_passes(
    trajectory: Trajectory, edits: Sequence[Edit], window: int | None, batch_tokens: int
) -> list[Pass]:
    """Every edit in exactly one pass of at most `batch_tokens` entries (one row may have more).

    `window` is that of the windowed estimator, None the exact one.
    """
    alone = [_alone(trajectory, edit, i, window) for i, edit in enumerate(edits)]
    # Alike ones side by side, by place.
    alone.sort(key=lambda one: (one.length_change, one.first_read, one.rows[0].is_windowed, one.rows[0].crop))
    passes: list[Pass] = []
    for one in alone:
        joined = passes[-1].joined_by(one, batch_tokens) if passes else None
        if joined:
            passes[-1] = joined
        else:
            passes.append(one)
    return passes


def _alone(trajectory: Trajectory, edit: Edit, member: int, window: int | None) -> Pass:
    entries = trajectory.context.entries
    first_read, last_run = entries.index_of_token(edit.first_token) - 1, len(entries) - 1
    # After a drop at the tail the first loss is read at the entry before it.
    crop = min(first_read + edit.length_change, edit.first_entry)
    kept_first = last_run if window is None else edit.end_entry + window
    row = Row(member, crop, last_run, last_run)
    if kept_first < first_read:
        row = Row(member, crop, kept_first, first_read)
    alone = Pass((row,), edit.length_change, first_read, last_run, num_needed=0)
    return replace(alone, num_needed=alone.row_length)
