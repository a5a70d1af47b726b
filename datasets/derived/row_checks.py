"""Checks on the rows that a recipe gives: labels and pairs that the store could hold."""

import duckdb

from mctrace.datasets.derived.recipe import Recipe
from mctrace.datasets.sql.connection import fetch_rows
from mctrace.errors import InputError, StoreError

_WRONG_LABELS = {
    "rows without a snapshot, trajectory, action, value or probability": """
        select snapshot_id as example from derived
        where snapshot_id is null or trajectory_id is null or action is null or node_level is null
        or node_index is null or not isfinite(value_of_detail) or value_of_detail is null
        or coalesce(inclusion_probability, 0) <= 0 or inclusion_probability > 1""",
    "rows whose trajectory, document or split is not the store's": """
        select snapshot_id as example from derived as d
        anti join trajectories as t using (trajectory_id, document_id, split)""",
    "rows at a cursor that was not measured": """
        select snapshot_id as example from derived as d join trajectories as t using (trajectory_id)
        where d.cursor not between t.first_cursor and t.last_cursor""",
    "snapshots with two cursors, trajectories or starts": """
        select snapshot_id as example from derived group by snapshot_id
        having min(cursor) <> max(cursor) or min(trajectory_id) <> max(trajectory_id)
        or min(coalesce(start, -1)) <> max(coalesce(start, -1))""",
    "snapshots that begin where no node of their map begins": """
        select any_value(snapshot_id) as example
        from (select distinct snapshot_id, trajectory_id, start from derived where start is not null) as d
        join trajectories as t using (trajectory_id)
        where d.start < t.start or d.start % t.block_size <> 0 or d.start >= t.first_cursor
        or d.start
            % (
                t.block_size ** greatest(t.levels[(d.start - t.start) // t.block_size + 1] % 255, 1)
            )::bigint <> 0
        group by snapshot_id""",
    "rows for nodes before their snapshot's start": """
        select snapshot_id as example from derived where cursor - distance_to_cursor - span_width < start""",
    "snapshots in which an action is there twice (give copies a snapshot_id of their own)": """
        select snapshot_id as example from derived
        where hash(snapshot_id, action, node_level, node_index) in (
            select hash(snapshot_id, action, node_level, node_index) as action_hash from derived
            group by action_hash having count(*) > 1
        )""",
}

_WRONG_PAIRS = {
    "pairs whose snapshots are not in the store": """
        select better_snapshot_id as example from derived as d
        where (better_snapshot_id, split) not in (select (snapshot_id, split) from snapshots)
        or (worse_snapshot_id, split) not in (select (snapshot_id, split) from snapshots)""",
    "pairs without a positive strength": """
        select better_snapshot_id as example from derived where coalesce(strength, 0) <= 0""",
}


def refuse_wrong_rows(connection: duckdb.DuckDBPyConnection, table: str, recipe: Recipe) -> None:
    """Raises InputError when the view `derived` has no rows, or rows that do not fit the store."""
    (counted,) = fetch_rows(connection, "select count(*) as num from derived")
    if not counted["num"]:
        raise InputError(f"the recipe {recipe.name} gives no rows: nothing to keep")
    for what, query in (_WRONG_LABELS if table == "derived_labels" else _WRONG_PAIRS).items():
        try:
            rows = fetch_rows(
                connection, f"select count(*) as num, any_value(example) as example from ({query})"
            )
        except StoreError as error:
            raise InputError(f"the recipe {recipe.name} cannot be checked: {error}") from error
        if rows[0]["num"]:
            raise InputError(
                f"the recipe {recipe.name} gives {rows[0]['num']} {what}, e.g. {rows[0]['example']}"
            )
