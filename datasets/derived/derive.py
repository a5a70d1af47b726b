"""Derived datasets: labels or preference pairs that a recipe in SQL makes of a version, kept as a part.

A recipe is one query. It may read every view and macro, the variable `seed`, and variables of its own; chance
comes from `chance(key, seed)`. What it gives is written in the order in which it gives it, so that the same
version, recipe and seed make the same bytes: where an answer could depend on how work is split among threads,
it runs on one.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from mctrace.datasets.sql.connection import connect, error_text, fetch_rows, file_url, sql_literal
from mctrace.datasets.sql.registry import own_sql
from mctrace.datasets.sql.sandbox import UserQuery, plain_query
from mctrace.datasets.sql.variables import set_variables, variables_of
from mctrace.datasets.store.parts import Part, scratch_folder, write_part
from mctrace.datasets.store.schemas import TABLES
from mctrace.datasets.store.store import DATASET_KIND, DERIVED_BY, Store, StoreVersion
from mctrace.errors import InputError, StoreError

RECIPES = (
    "significant",
    "above_noise_floor",
    "levels",
    "distances",
    "sources",
    "stride",
    "jittered",
    "partial_windows",
    "smoothed",
    "balanced",
    "hard_pairs",
    "spec_augmentation",
)

OWN_RECIPES = "recipes"
"""The folder beside pipeline.toml in which a user's own NAME.sql is a recipe called NAME."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_OPTIONAL = {"start", "shadow_price"}
"""Columns of derived labels that a recipe need not give."""


@dataclass(frozen=True)
class Recipe:
    """One query and what it is called."""

    name: str
    text: str

    @property
    def content_hash(self) -> str:
        """sha256 of the query."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Derivation:
    """Everything that determines a derived dataset but the version that it is made of."""

    recipe: Recipe
    seed: int = 0
    variables: Mapping[str, object] | None = None

    @property
    def variables_json(self) -> str:
        return json.dumps(dict(self.variables or {}), sort_keys=True)

    def part_id(self, version: StoreVersion) -> str:
        """The same for the same recipe, seed and variables over the same measured parts."""
        measured = sorted(c.part.part_id for c in version.listed if c.part.kind != DATASET_KIND)
        parent = version.datasets[version.dataset].part_id if version.dataset else None
        key = ["dataset", measured, parent, self.recipe.text, self.seed, self.variables_json]
        return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:40]


def recipe_sql(name: str) -> str:
    """The text of a recipe that ships."""
    return Path(__file__).parent.joinpath("recipes", f"{name}.sql").read_text(encoding="utf-8")


def find_recipe(name: str) -> Recipe:
    """A recipe that ships, recipes/NAME.sql where one works, or any .sql file. Raises InputError."""
    if name in RECIPES:
        return Recipe(name, recipe_sql(name))
    path, text = own_sql("recipe", name, OWN_RECIPES, RECIPES)
    return Recipe(path.name, text)


def derive(store: Store, version: StoreVersion, name: str, derivation: Derivation) -> Part:
    """Makes and commits the dataset `name`; returns its part, the one that was there where nothing is new.

    `version` may be read through a dataset, which then is the parent. Raises InputError for a name that is
    taken, and for a recipe that fails, gives no rows or rows that are no labels; then nothing is committed.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"dataset name {name!r}: letters, digits, '_', '-' and '.' make a name")
    part_id = derivation.part_id(version)
    taken = store.at().datasets.get(name)
    if taken is not None:
        if taken.part_id.startswith(part_id):
            return taken
        raise InputError(
            f"the store has a dataset {name!r} already, of another version, recipe or seed: choose another "
            f"name (\"from datasets where name = '{name}'\" shows it)"
        )
    folder = scratch_folder(version.location)
    try:
        table, file = _run_recipe(version, derivation, folder)
        part = _write(version, name, part_id, derivation, table, file)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    store.commit([part])
    return part


def _write(
    version: StoreVersion, name: str, part_id: str, derivation: Derivation, table: str, file: Path
) -> Part:
    row = {
        "name": name,
        "kind": table.removeprefix("derived_"),
        "recipe_name": derivation.recipe.name,
        "recipe": derivation.recipe.text,
        "recipe_hash": derivation.recipe.content_hash,
        "seed": derivation.seed,
        "variables": derivation.variables_json,
        "parent_version": version.version,
        "parent_dataset": version.dataset,
        "num_rows": pq.read_metadata(file).num_rows,
    }
    lineage = [f"version:{version.version}"]
    if version.dataset:
        lineage.append(f"dataset:{version.datasets[version.dataset].part_id}")
    return write_part(
        version.location,
        # The same rows may stand under two names.
        part_id=f"{part_id}-{name}",
        kind=DATASET_KIND,
        run_id=f"{DERIVED_BY}{name}",
        tables={"datasets": [row], table: file},
        lineage=tuple(lineage),
    )


def _run_recipe(version: StoreVersion, derivation: Derivation, folder: Path) -> tuple[str, Path]:
    """Writes the recipe's rows as Parquet; returns the table that they belong to and the file.

    The recipe's connection only reads: its rows are written here.
    """
    recipe, file = derivation.recipe, folder / "rows.parquet"
    query = plain_query(recipe.text)
    _refuse_other_chance(recipe, query)
    with connect(version, settings=_settings(query), files={file.name: file}) as connection:
        connection.execute(Path(__file__).with_name("augmentations.sql").read_text(encoding="utf-8"))
        variables = {"seed": derivation.seed} if "seed" in variables_of(query.text) else {}
        set_variables(connection, query.text, {**variables, **(derivation.variables or {})})
        try:
            columns = connection.sql(f"from (\n{query.text}\n)").columns
            table = "derived_pairs" if "better_snapshot_id" in columns else "derived_labels"
            rows = connection.sql(_with_types(table, columns, query.text, recipe)).to_arrow_reader(
                _GROUP_ROWS
            )
            _write_rows(rows, TABLES[table], file)
        except OSError as error:
            reason = error.strerror or error
            raise StoreError(f"cannot write to the store {version.location.uri}: {reason}") from error
        except (duckdb.Error, pa.ArrowException) as error:
            raise InputError(f"the recipe {recipe.name} fails: {error_text(error)}") from error
        connection.execute(
            f"create temp view derived as from read_parquet({sql_literal(file_url(file.name))})"
        )
        _refuse_wrong_rows(connection, table, recipe)
    return table, file


_GROUP_ROWS = 122_880


def _write_rows(rows: pa.RecordBatchReader, schema: pa.Schema, file: Path) -> None:
    """Row groups of one size, whatever the batches are that rows come in: bytes must not depend on them."""
    waiting: list[pa.RecordBatch] = []
    with pq.ParquetWriter(file, schema, compression="zstd", store_schema=False) as writer:
        for batch in rows:
            waiting.append(batch)
            if sum(map(len, waiting)) >= _GROUP_ROWS:
                table = pa.Table.from_batches(waiting).cast(schema)
                writer.write_table(table[:_GROUP_ROWS].combine_chunks())
                waiting = table[_GROUP_ROWS:].to_batches()
        while waiting:
            table = pa.Table.from_batches(waiting).cast(schema)
            writer.write_table(table[:_GROUP_ROWS].combine_chunks())
            waiting = table[_GROUP_ROWS:].to_batches()


def _with_types(table: str, columns: list[str], query: str, recipe: Recipe) -> str:
    """The recipe with the columns and types of `table`, and the price each snapshot had in its parent."""
    schema = TABLES[table]
    missing = [name for name in schema.names if name not in columns and name not in _OPTIONAL]
    unknown = [name for name in columns if name not in schema.names]
    if missing or unknown:
        raise InputError(
            f"the recipe {recipe.name} gives no rows of {table.removeprefix('derived_')}: "
            + "; ".join(
                f"{what} {', '.join(names)}"
                for what, names in (("it lacks", missing), ("it has besides", unknown))
                if names
            )
            + " (start from select * from labels, or from preference_pairs)"
        )
    own_price = "shadow_price" in columns

    def column(field: pa.Field) -> str:
        source = f"r.{field.name}" if field.name in columns else "null"
        if field.name == "shadow_price" and not own_price:
            source = "p.shadow_price"
        return f"{source}::{_duckdb_type(field.type)} as {field.name}"

    selected = ", ".join(map(column, schema))
    priced = table == "derived_labels" and not own_price
    prices = "left join shadow_prices as p on p.snapshot_id = r.snapshot_id" if priced else ""
    return f"select {selected} from (\n{query}\n) as r {prices}"


def _duckdb_type(arrow_type: pa.DataType) -> str:
    return {
        "string": "varchar",
        "int64": "bigint",
        "int32": "integer",
        "uint8": "utinyint",
        "double": "double",
    }[str(arrow_type)]


_VOLATILE = {
    "random", "setseed", "uuid", "uuidv4", "uuidv7", "gen_random_uuid", "now", "today", "nextval",
    "get_current_time", "get_current_timestamp", "get_current_date", "transaction_timestamp", "txid_current",
}  # fmt: skip
_SESSION = {
    "current_timestamp", "current_date", "current_time", "current_localtime", "current_localtimestamp",
    "localtime", "localtimestamp",
}  # fmt: skip
"""Functions that are written like columns."""


def _refuse_other_chance(recipe: Recipe, query: UserQuery) -> None:
    found = sorted(query.functions & (_VOLATILE | _SESSION) | query.columns & _SESSION)
    if query.samples:
        found.append("a sample of DuckDB's")
    if found:
        raise InputError(
            f"the recipe {recipe.name} uses {', '.join(found)}: its rows could not be made again; take "
            "chance from chance(key, getvariable('seed')), for example with key snapshot_id"
        )


def _settings(query: UserQuery) -> dict[str, object]:
    """What makes the order of rows, and so the bytes, the same on every machine.

    The left side of a join streams and keeps its order, whatever the sizes look like. Rows come in one order
    from one thread and in another from several, the same for any number of them.
    """
    threads = max(2, os.cpu_count() or 2) if _order_does_not_matter(query) else 1
    return {"disabled_optimizers": "join_order,build_side_probe_side", "threads": threads}


_FREE_OF_ORDER = {
    "count", "count_star", "min", "max", "quantile_cont", "quantile_disc", "median", "bool_and", "bool_or",
}  # fmt: skip
_ORDERED = {"LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER", "DISTINCT_MODIFIER"}


def _order_does_not_matter(query: UserQuery) -> bool:
    """Whether no sum of floating-point numbers, pick or numbering can depend on how rows are split up."""
    for part in query.parts:
        numbers = part.get("class") == "WINDOW" or part.get("type") in _ORDERED
        if numbers or part.get("distinct") or part.get("aggregate_handling") == "FORCE_AGGREGATES":
            return False
    aggregates = {name for (name,) in duckdb.execute(_AGGREGATES).fetchall()}
    return not (query.functions & aggregates - _FREE_OF_ORDER)


_AGGREGATES = "select distinct function_name from duckdb_functions() where function_type = 'aggregate'"


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
            % (t.block_size ** greatest(t.levels[(d.start - t.start) // t.block_size + 1], 1))::bigint <> 0
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


def _refuse_wrong_rows(connection: duckdb.DuckDBPyConnection, table: str, recipe: Recipe) -> None:
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
