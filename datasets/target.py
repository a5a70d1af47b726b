"""A target definition as a value: its name, its SQL, and a hash by which two can be told apart."""

import hashlib
from dataclasses import dataclass
from typing import Literal

from mctrace.datasets.queries import target_sql

Merge = Literal["sum", "largest"]
"""How an entry that can both expand and collapse gets one target: sum of both, or the larger in size."""


@dataclass(frozen=True)
class Target:
    """What a loss is given, as a query over `labels` with a column `utility`."""

    name: str
    sql: str

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
        return "largest" if self.name.startswith("literal") else "sum"
