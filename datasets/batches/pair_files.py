"""Preference pairs of a training run on disk: Arrow files that every process of a machine maps into memory.

    variants.arrow      one row per variant, the variants of a group together
    comparisons.arrow   one row per variant to score, by split and group, with the numbers of the others
    maps.arrow          one row per trajectory

A pair takes 8 bytes of comparisons.arrow, and a variant about 250 with its part of the others
(docs/training.md#many-labels).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from mctrace.context.lod_map import LODMap
from mctrace.datasets.batches.arrow_files import MappedMaps, create_maps, damaged, mapped, write_arrow_files
from mctrace.datasets.batches.stored_maps import StoredMap
from mctrace.datasets.sql.connection import fetch_rows


@dataclass(frozen=True)
class Variant:
    """Working context of a group whose members all show the same window of a document."""

    snapshot_id: str
    document_id: str
    group_id: str
    cursor: int
    head: StoredMap
    adv_delta: float
    """its loss less the level-0 baseline's, nats per token"""

    @property
    def lod_map(self) -> LODMap:
        return self.head.at(self.cursor)


@dataclass(frozen=True)
class Comparison:
    """A variant and the other variants of its group that it is compared with."""

    variant: Variant
    others: tuple[Variant, ...]
    group: tuple[Variant, ...]
    """all variants of the group, also those that no pair names"""


class Comparisons(Sequence[Comparison]):
    """Comparisons of one split, each read from disk when it is asked for."""

    def __init__(self, tables: "_PairTables", rows: range, num_pairs: int) -> None:
        self._tables, self._rows, self.num_pairs = tables, rows, num_pairs

    def __len__(self) -> int:
        return len(self._rows)

    # Not overloaded, as in `label_files.Snapshots`.
    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            raise TypeError("comparisons are read one by one")
        return self._tables.comparison(self._rows[at])

    def __iter__(self) -> Iterator[Comparison]:
        return map(self._tables.comparison, self._rows)


class _PairTables:
    """The three files, mapped."""

    def __init__(self, folder: Path) -> None:
        self._variants, self._comparisons = mapped(folder, "variants"), mapped(folder, "comparisons")
        self._maps = MappedMaps(folder)

    def comparison(self, number: int) -> Comparison:
        (row,) = self._comparisons.slice(number, 1).to_pylist()
        first = row["first_of_group"]
        found = self._variants.slice(first, row["num_of_group"]).to_pylist()
        group = tuple(self._variant(one) for one in found)
        others = tuple(group[other - first] for other in row["others"])
        return Comparison(group[row["variant"] - first], others, group)

    def _variant(self, row: Mapping[str, Any]) -> Variant:
        return Variant(
            row["snapshot_id"],
            row["document_id"],
            row["variant_group_id"],
            row["cursor"],
            self._maps.map(row["map_number"]),
            row["adv_delta"],
        )


@dataclass(frozen=True)
class SplitRows:
    """Where a split's comparisons are, and what SQL says of all of them."""

    first: int
    after: int
    num_pairs: int
    adv_mean: float
    """mean of adv_delta over the variants that its pairs name, nats per token"""
    adv_variance: float


def write_pair_files(
    connection: duckdb.DuckDBPyConnection, folder: Path, *, both: bool = False
) -> dict[str, SplitRows]:
    """Writes the pairs of the table `chosen_pairs` and the variants of `chosen_variants`, with their maps.

    The worse variant of each pair is compared with the better one; with `both` also the other way round.

    Pairs whose document is missing, as where a damaged one is skipped, are left out. Raises StoreError when a
    file cannot be read or written.
    """
    try:
        create_maps(connection, "chosen_variants")
        connection.execute(_VARIANTS)
        connection.execute(_COMPARISONS.format(reversed=_REVERSED if both else ""))
        splits = fetch_rows(connection, _SPLITS)
    except duckdb.Error as error:
        raise damaged(error) from error
    queries = {
        "variants": "from numbered_variants order by number",
        "comparisons": "from numbered_comparisons order by number",
    }
    write_arrow_files(connection, folder, queries, "pairs")
    return {row.pop("split"): SplitRows(**row) for row in splits}


def open_pair_files(folder: Path, splits: Mapping[str, SplitRows]) -> dict[str, Comparisons]:
    """Comparisons by split. The files may be removed once they are open."""
    tables = _PairTables(folder)
    return {
        split: Comparisons(tables, range(rows.first, rows.after), rows.num_pairs)
        for split, rows in splits.items()
    }


_VARIANTS = """
    create temp table numbered_variants as
    select
        snapshot_id, document_id, variant_group_id, cursor, adv_delta, map_number,
        row_number() over (order by variant_group_id, snapshot_id) - 1 as number
    from chosen_variants
    join chosen_maps using (trajectory_id)
"""

_COMPARISONS = """
    create temp table numbered_comparisons as
    with named as (
        select
            p.split, p.variant_group_id, variant.number as variant,
            list(other.number order by other.number) as others
        from (
            select split, variant_group_id, worse_snapshot_id as snapshot_id, better_snapshot_id as other_id
            from chosen_pairs
            {reversed}
        ) as p
        join numbered_variants as variant on variant.snapshot_id = p.snapshot_id
        join numbered_variants as other on other.snapshot_id = p.other_id
        group by all
    ),

    groups as (
        select variant_group_id, min(number) as first_of_group, count(*) as num_of_group
        from numbered_variants
        group by variant_group_id
    )

    select
        split, variant, others, first_of_group, num_of_group,
        row_number() over (order by split, variant) - 1 as number
    from named
    join groups using (variant_group_id)
"""

_REVERSED = """
            union all
            select split, variant_group_id, better_snapshot_id, worse_snapshot_id from chosen_pairs
"""

_SPLITS = """
    with named as (
        select distinct split, unnest(list_append(others, variant)) as number
        from numbered_comparisons
    ),

    advantages as (
        select split, avg(adv_delta) as adv_mean, var_pop(adv_delta) as adv_variance
        from named
        join numbered_variants using (number)
        group by split
    )

    select
        split, min(number) as first, max(number) + 1 as after, sum(len(others))::bigint as num_pairs,
        any_value(adv_mean) as adv_mean, any_value(adv_variance) as adv_variance
    from numbered_comparisons
    join advantages using (split)
    group by split
"""
