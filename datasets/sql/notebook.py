"""A store in a notebook: questions in SQL, answers as Arrow, pandas or polars.

from mctrace.datasets.sql.notebook import open_traces

traces = open_traces("traces")
traces.pandas("select action, median(value_of_detail) from labels group by all")
traces.polars("from labels_at(getvariable('h'))", h=32)
traces.connection.sql("describe labels")     # the DuckDB connection itself
"""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from mctrace.datasets.sql.connection import connect
from mctrace.datasets.sql.user_queries import run_user_sql
from mctrace.datasets.sql.variables import set_variables, variables_of
from mctrace.datasets.store.store import StoreVersion, open_store
from mctrace.errors import InputError

if TYPE_CHECKING:
    import pandas
    import polars


@dataclass(frozen=True)
class Traces:
    """One version of a store, open for questions."""

    version: StoreVersion
    connection: duckdb.DuckDBPyConnection
    """with every view, for SQL of your own, tables and views in memory too: it reads the store's tables and
    writes no file; `arrow`, `pandas` and `polars` run queries only"""

    def __repr__(self) -> str:
        """Place, version and size in one line."""
        rows = Counter[str]()
        for committed in self.version.parts:
            rows.update(committed.part.num_rows)
        sizes = ", ".join(f"{rows[table]:,} {table}" for table in ("documents", "trajectories", "effects"))
        through = f", dataset {self.version.dataset}" if self.version.dataset else ""
        return f"<Traces {self.version.location.uri} at version {self.version.version}{through}: {sizes}>"

    def arrow(self, sql: str, **variables: object) -> pa.Table:
        """The answer to one query; `variables` are what it reads with getvariable. Raises InputError."""
        set_variables(self.connection, sql, variables)
        try:
            return run_user_sql(self.connection, sql)
        finally:
            for name in variables.keys() & variables_of(sql):
                self.connection.execute(f"reset variable {name}")

    def pandas(self, sql: str, **variables: object) -> "pandas.DataFrame":
        """The answer as a pandas data frame."""
        _need("pandas")
        return self.arrow(sql, **variables).to_pandas()

    def polars(self, sql: str, **variables: object) -> "polars.DataFrame":
        """The answer as a polars data frame."""
        _need("polars")
        import polars

        frame = polars.from_arrow(self.arrow(sql, **variables))
        assert isinstance(frame, polars.DataFrame), "a table makes a data frame"
        return frame


def open_traces(uri: str, version: int | None = None, dataset: str | None = None) -> Traces:
    """The store at `uri`, at its newest version unless one is named, read through a derived dataset if given.

    Raises StoreError or InputError where there is no such store, version or dataset.
    """
    opened = open_store(uri).at(version).read_through(dataset)
    return Traces(opened, connect(opened))


def _need(library: str) -> None:
    try:
        __import__(library)
    except ImportError as error:
        raise InputError(f"{library} is not installed: pip install {library}") from error
