"""A target definition as a value: its name, and a text that says everything else.

The text is a query over `labels` with a column `utility`, one for each action. How an entry that can both
expand and collapse gets a single target of the two is said there as well, by a line of its own:

    -- merge: largest

(see `merged_targets`). A copy of a target's text under another name is therefore the same target.
"""

import hashlib
from dataclasses import dataclass

from mctrace.datasets.sql.registry import target_sql
from mctrace.datasets.sql.target_merging import Merge, is_signed, merge_of


@dataclass(frozen=True)
class Target:
    """What a loss is given, as a query over `labels` with a column `utility`.

    Raises ConfigError when a line of the query says `merge:` and then something else than there is.
    """

    name: str
    sql: str

    def __post_init__(self) -> None:
        merge_of(self.sql, self.name)

    @classmethod
    def named(cls, name: str) -> "Target":
        """The target `value`, `priced`, `literal`, or that of a .sql file; raises InputError for anything
        else."""
        return cls(name, target_sql(name))

    @property
    def hash(self) -> str:
        """sha256 of the query's text, comments and all."""
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def merge(self) -> Merge:
        return merge_of(self.sql, self.name)

    @property
    def signed(self) -> bool:
        """Whether a utility's sign says what to do: expand >= 0, collapse <= 0."""
        return is_signed(self.merge)
