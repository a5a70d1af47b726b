"""Views over rows given by hand, without a store on disk."""

from collections.abc import Mapping, Sequence
from functools import cache

import duckdb
import pyarrow as pa

from mctrace.datasets.sql.registry import define_views
from mctrace.datasets.sql.token_scan import SCHEMA
from mctrace.datasets.store.schemas import DATASET_COMMITS, TABLES
from tests.datasets.synthetic import PROVENANCE


def views_over(**tables: Sequence[Mapping[str, object]]) -> duckdb.DuckDBPyConnection:
    """A connection whose stored tables hold these rows until the next call; those not given are empty."""
    connection = _empty_views()
    for name, schema in TABLES.items():
        table = pa.Table.from_pylist(list(tables.get(name, ())), schema=schema)
        connection.register(f"stored_{name}", table)
    return connection


@cache
def _empty_views() -> duckdb.DuckDBPyConnection:
    """Shared: defining the views takes longer than asking them."""
    connection = duckdb.connect()
    for name, schema in TABLES.items():
        connection.register(f"stored_{name}", schema.empty_table())
    connection.register("stored_document_tokens", SCHEMA.empty_table())
    connection.register("stored_dataset_commits", DATASET_COMMITS.empty_table())
    define_views(connection)
    return connection


def trajectory_row(trajectory_id: str, levels: Sequence[int], cursors: Sequence[int], **columns) -> dict:
    """A row of trajectories; the baseline has as many tokens as it must."""
    horizon = int(columns.get("horizon", 4))
    return {
        **PROVENANCE,
        "trajectory_id": trajectory_id,
        "run_id": "run",
        "document_id": "a",
        "policy": "random",
        "protected_tail": 4,
        "start": 0,
        "levels": list(levels),
        "cursors": list(cursors),
        "horizon": horizon,
        "baseline_nll": [1.0] * (cursors[-1] + horizon - cursors[0]),
        "baseline_status": "ok",
        **columns,
    }


def effect_row(trajectory_id: str, action: str, level: int, index: int, **columns) -> dict:
    return {
        "trajectory_id": trajectory_id,
        "action": action,
        "node_level": level,
        "node_index": index,
        "entry_level": level - (action == "collapse"),
        "estimator": "exact",
        "inclusion_probability": 1.0,
        "status": "ok",
        **columns,
    }
