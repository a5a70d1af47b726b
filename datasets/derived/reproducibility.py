"""What makes a recipe give the same bytes again: no randomness but `chance`, and one order of rows."""

import os

import duckdb

from mctrace.datasets.derived.recipe import Recipe
from mctrace.datasets.sql.sandbox import UserQuery
from mctrace.errors import InputError

_VOLATILE = {
    "random", "setseed", "uuid", "uuidv4", "uuidv7", "gen_random_uuid", "now", "today", "nextval",
    "get_current_time", "get_current_timestamp", "get_current_date", "transaction_timestamp", "txid_current",
}  # fmt: skip
_SESSION = {
    "current_timestamp", "current_date", "current_time", "current_localtime", "current_localtimestamp",
    "localtime", "localtimestamp",
}  # fmt: skip
"""Functions that are written like columns."""


def refuse_other_chance(recipe: Recipe, query: UserQuery) -> None:
    """Raises InputError when the recipe draws random numbers, reads the clock or takes a sample."""
    found = sorted(query.functions & (_VOLATILE | _SESSION) | query.columns & _SESSION)
    if query.samples:
        found.append("one of DuckDB's samples")
    if found:
        raise InputError(
            f"the recipe {recipe.name} uses {', '.join(found)}: its rows could not be made again; take "
            "random numbers from chance(key, getvariable('seed')), for example with key snapshot_id"
        )


def settings_for(query: UserQuery) -> dict[str, object]:
    """DuckDB settings that make the order of rows, and so the bytes, the same on every machine.

    The left side of a join streams and keeps its order, whatever the sizes. One thread gives rows in one
    order, several in another, which is the same for any number of them.
    """
    threads = max(2, os.cpu_count() or 2) if _order_does_not_matter(query) else 1
    return {"disabled_optimizers": "join_order,build_side_probe_side", "threads": threads}


_FREE_OF_ORDER = {
    "count", "count_star", "min", "max", "quantile_cont", "quantile_disc", "median", "bool_and", "bool_or",
}  # fmt: skip
_ORDERED = {"LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER", "DISTINCT_MODIFIER"}


def _order_does_not_matter(query: UserQuery) -> bool:
    """Whether no floating-point sum, chosen row or row number can depend on how threads split the rows."""
    for part in query.parts:
        numbers = part.get("class") == "WINDOW" or part.get("type") in _ORDERED
        if numbers or part.get("distinct") or part.get("aggregate_handling") == "FORCE_AGGREGATES":
            return False
    aggregates = {name for (name,) in duckdb.execute(_AGGREGATES).fetchall()}
    return not (query.functions & aggregates - _FREE_OF_ORDER)


_AGGREGATES = "select distinct function_name from duckdb_functions() where function_type = 'aggregate'"
