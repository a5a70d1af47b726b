"""Derived datasets: labels or preference pairs that a recipe in SQL makes of a version, stored as a part.

A recipe is one query. It may read every view and macro, the variable `seed`, and variables of its own; random
numbers come from `chance(key, seed)`. Its rows are written in the order in which it gives them, so that the
same version, recipe and seed make the same bytes (`reproducibility`).
"""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from mctrace.datasets.derived.recipe import Recipe
from mctrace.datasets.derived.reproducibility import refuse_other_chance, settings_for
from mctrace.datasets.derived.row_checks import refuse_wrong_rows
from mctrace.datasets.sql.connection import connect, error_text, file_url, sql_literal
from mctrace.datasets.sql.sandbox import plain_query
from mctrace.datasets.sql.variables import set_variables, variables_of
from mctrace.datasets.store.parts import Part, scratch_folder, write_part
from mctrace.datasets.store.schemas import TABLES
from mctrace.datasets.store.store import DATASET_KIND, DERIVED_BY, Store, StoreVersion
from mctrace.errors import InputError, StoreError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_OPTIONAL = {"start", "shadow_price", "hac_stderr", "semantics"}
"""Columns of derived labels that a recipe need not give."""


@dataclass(frozen=True)
class Derivation:
    """Everything that determines a derived dataset except the version that it is made from."""

    recipe: Recipe
    seed: int = 0
    variables: Mapping[str, object] | None = None

    @property
    def variables_json(self) -> str:
        return json.dumps(dict(self.variables or {}), sort_keys=True)

    def part_id(self, version: StoreVersion) -> str:
        """Part id; equal for the same recipe, seed and variables over the same measured parts."""
        measured = sorted(c.part.part_id for c in version.listed if c.part.kind != DATASET_KIND)
        parent = version.datasets[version.dataset].part_id if version.dataset else None
        key = ["dataset", measured, parent, self.recipe.text, self.seed, self.variables_json]
        return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:40]


def derive(store: Store, version: StoreVersion, name: str, derivation: Derivation) -> Part:
    """Makes and commits the dataset `name`; returns its part, the existing one where nothing is new.

    `version` may be read through a dataset, which is then the parent. Raises InputError, with nothing
    committed, for a name that is taken and for a recipe that fails, gives no rows or gives rows that are no
    labels.
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
        table, file = recipe_rows(version, derivation, folder)
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
        # The same rows may have two names.
        part_id=f"{part_id}-{name}",
        kind=DATASET_KIND,
        run_id=f"{DERIVED_BY}{name}",
        tables={"datasets": [row], table: file},
        lineage=tuple(lineage),
    )


def recipe_rows(version: StoreVersion, derivation: Derivation, folder: Path) -> tuple[str, Path]:
    """Writes the recipe's rows as Parquet into `folder`; returns the table to which they belong and the file.

    The recipe's connection can only read, so Python writes the rows. Raises InputError for a recipe that
    fails, gives no rows or gives rows that are no labels or pairs.
    """
    recipe, file = derivation.recipe, folder / "rows.parquet"
    query = plain_query(recipe.text)
    refuse_other_chance(recipe, query)
    with connect(version, settings=settings_for(query), files={file.name: file}) as connection:
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
        refuse_wrong_rows(connection, table, recipe)
    return table, file


_GROUP_ROWS = 122_880


def _write_rows(rows: pa.RecordBatchReader, schema: pa.Schema, file: Path) -> None:
    """Writes row groups of one size, so that bytes do not depend on the size of incoming batches."""
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
    """Recipe with the columns and types of `table`, the price of each snapshot in the parent dataset, and the
    semantics that its trajectory was measured by."""
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
        if field.name == "semantics":
            source = "t.semantics"
        return f"{source}::{_duckdb_type(field.type)} as {field.name}"

    selected = ", ".join(map(column, schema))
    priced = table == "derived_labels" and not own_price
    prices = "left join shadow_prices as p on p.snapshot_id = r.snapshot_id" if priced else ""
    of_labels = table == "derived_labels"
    measured = "left join trajectories as t on t.trajectory_id = r.trajectory_id" if of_labels else ""
    return f"select {selected} from (\n{query}\n) as r {prices} {measured}"


def _duckdb_type(arrow_type: pa.DataType) -> str:
    return {
        "string": "varchar",
        "int64": "bigint",
        "int32": "integer",
        "uint8": "utinyint",
        "double": "double",
    }[str(arrow_type)]
