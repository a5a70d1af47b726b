"""Labels of a report: all of a version, or those of a condition, as a derived dataset that is not kept."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from mctrace.datasets.derived.derive import Derivation, recipe_rows
from mctrace.datasets.derived.recipe import Recipe
from mctrace.datasets.sql.connection import connect
from mctrace.datasets.sql.sandbox import check_condition
from mctrace.datasets.store.store import StoreVersion


@contextmanager
def effects_of_labels(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Restrict `effects`, and what is made of their tokens, to a condition's labels inside the context."""
    connection.execute(
        "create temp view effects as from memory.main.effects semi join stored_derived_labels "
        "using (trajectory_id, action, node_level, node_index)"
    )
    try:
        yield
    finally:
        connection.execute("drop view temp.effects")


@contextmanager
def connected(version: StoreVersion, where: str = "") -> Iterator[duckdb.DuckDBPyConnection]:
    """Connection over the version; with `where`, a SQL condition on `labels`, over those labels alone.

    Raises InputError for what is no condition, or one that no label meets.
    """
    if not where:
        with connect(version) as connection:
            yield connection
        return
    check_condition(where)
    recipe = Recipe(f"of --where {where!r}", f"select * from labels where (\n{where}\n)")
    with tempfile.TemporaryDirectory(prefix="mctrace-report-") as scratch:
        table, file = recipe_rows(version, Derivation(recipe), Path(scratch))
        with connect(version, rows={table: file}) as connection:
            yield connection
