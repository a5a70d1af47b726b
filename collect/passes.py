"""Which entries the base model has to run for a baseline and for each action: the plan, without the model.

Everything before an edit is the same in the counterfactual, so its keys and values come from the baseline's
cache. What remains is one pass over [edit ... last cursor + H), which serves every cursor of the trajectory
at once. `mctrace plan` adds up these counts, the evaluator runs them; there is no second bookkeeping.
"""

from dataclasses import dataclass

from mctrace.context.actions import Action, apply_action
from mctrace.context.lod_map import Entries
from mctrace.context.trajectory import Trajectory


@dataclass(frozen=True)
class Work:
    """What the base model has to do: entries through its layers, through its head, and attended pairs."""

    num_recomputed: int = 0
    num_read: int = 0
    num_pairs: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.num_recomputed + other.num_recomputed,
            self.num_read + other.num_read,
            self.num_pairs + other.num_pairs,
        )


@dataclass(frozen=True)
class ForwardPass:
    """One run of the base model over the tail of a working context.

    `entries` is the whole context up to the last token whose loss is read; entries before `crop` come from
    the baseline's cache. Losses are read for tokens [first_token, end).
    """

    entries: Entries
    crop: int
    first_token: int
    end: int

    @property
    def first_read(self) -> int:
        """The entry whose output predicts `first_token`: the one before it."""
        return self.entries.index_of_token(self.first_token) - 1

    @property
    def last_run(self) -> int:
        """One past the last entry that runs: the last token's own output predicts nothing we read."""
        return len(self.entries) - 1

    @property
    def work(self) -> Work:
        """Entries [crop, last_run) run, each attending to everything up to itself."""
        run = self.last_run - self.crop
        num_pairs = run * self.crop + run * (run + 1) // 2
        return Work(run, self.end - self.first_token, num_pairs)


def baseline_pass(trajectory: Trajectory) -> ForwardPass:
    """The unedited context with its tail, reading every token from the first cursor on."""
    context = trajectory.head.extended(trajectory.end)
    return ForwardPass(context.entries, 0, trajectory.first_cursor, trajectory.end)


def action_pass(trajectory: Trajectory, action: Action) -> ForwardPass:
    """The context with `action` applied; raises LegalityError when the map does not allow it."""
    edited = apply_action(trajectory.head.extended(trajectory.end), action)
    first_edited_token = edited.tree.span(action.node)[0]
    return ForwardPass(
        edited.entries,
        edited.entries.index_of_token(first_edited_token),
        trajectory.first_token(action),
        trajectory.end,
    )
