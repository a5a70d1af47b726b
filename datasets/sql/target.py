"""Target definition: a name and the text of a query.

The query is over `labels` and has a column `utility`, one for each action. A line of its text names the rule
that merges the two targets of an entry that can both expand and collapse:

    -- merge: largest

(see `merged_targets`). A copy of a target's text under another name is therefore the same target.
"""

import hashlib
from dataclasses import dataclass

from mctrace.datasets.sql.registry import target_sql
from mctrace.datasets.sql.target_merging import Merge, is_signed, learns_price, merge_of


@dataclass(frozen=True)
class Target:
    """Target of a loss, as a query over `labels` with a column `utility`.

    Raises ConfigError for an unknown merge rule.
    """

    name: str
    sql: str

    def __post_init__(self) -> None:
        merge_of(self.sql, self.name)

    @classmethod
    def named(cls, name: str) -> "Target":
        """Target that ships, or that of a .sql file. Raises InputError for anything else."""
        return cls(name, target_sql(name))

    @property
    def hash(self) -> str:
        """sha256 of the query's text, comments and all."""
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def merge(self) -> Merge:
        return merge_of(self.sql, self.name)

    @property
    def learns_price(self) -> bool:
        """Whether networks learn a price beside the values."""
        return learns_price(self.merge)

    @property
    def signed(self) -> bool:
        """Whether a utility's sign says what to do: expand >= 0, collapse <= 0."""
        return is_signed(self.merge)
