"""Variables of a query: names that it reads with getvariable('...'), and their values."""

import re
from collections.abc import Mapping

import duckdb

from mctrace.errors import InputError


def set_variables(connection: duckdb.DuckDBPyConnection, sql: str, variables: Mapping[str, object]) -> None:
    """Sets the variables that `sql` reads. Raises InputError for one that it does not read."""
    read = variables_of(sql)
    for name, value in variables.items():
        if name not in read:
            known = ", ".join(sorted(read)) or "none"
            raise InputError(f"the SQL reads no variable {name!r}; it reads {known}")
        connection.execute(f"set variable {name} = $1", [value])


def variables_of(sql: str) -> set[str]:
    """Names that `sql` reads with getvariable('...')."""
    return set(re.findall(r"getvariable\(\s*'(\w+)'\s*\)", sql))
