"""A target definition as a value: its name, and a text that says everything else.

The text is a query over `labels` with a column `utility`, one for each action. How an entry that can both
expand and collapse gets a single target of the two is said there as well, by a line of its own:

    -- merge: largest

takes the one of larger size, as `literal` does, and `mean` the mean of those that were measured, whatever
their signs, as `surplus` does; `sum`, max(0, u_expand) + min(0, u_collapse), is what holds where no line says
so. A copy of a target's text under another name is therefore the same target.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Literal, cast, get_args

from mctrace.context.ranges import check_choice
from mctrace.datasets.queries import target_sql

Merge = Literal["sum", "largest", "mean"]
"""How an entry that can both expand and collapse gets one target; see `merged_targets`."""

_MERGE_LINE = re.compile(r"^--[ \t]*merge:(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Target:
    """What a loss is given, as a query over `labels` with a column `utility`.

    Raises ConfigError when a line of the query says `merge:` and then something else than there is.
    """

    name: str
    sql: str

    def __post_init__(self) -> None:
        for said in _MERGE_LINE.findall(self.sql):
            check_choice(f"'-- merge:' of the target {self.name!r}", said.strip(), get_args(Merge))

    @classmethod
    def named(cls, name: str) -> "Target":
        """The target `priced`, `literal`, or that of a .sql file; raises InputError for anything else."""
        return cls(name, target_sql(name))

    @property
    def hash(self) -> str:
        """sha256 of the query's text, comments and all."""
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def merge(self) -> Merge:
        said = _MERGE_LINE.search(self.sql)
        return cast(Merge, said[1].strip()) if said else "sum"
