"""Reading preference pairs: working-context variants of one window, and which of two had the lower loss.

A variant is a LOD map with its loss and no measured action.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import duckdb

from mctrace.context.lod_map import LODMap
from mctrace.context.tree import Absence
from mctrace.datasets.batches.context_tensors import absence_of
from mctrace.datasets.batches.document_embeddings import DocumentEmbeddings
from mctrace.datasets.batches.label_reader import of_split
from mctrace.datasets.batches.stored_maps import StoredMap, read_maps, read_provenance
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.sql.sandbox import check_condition
from mctrace.datasets.store.provenance import Mix
from mctrace.datasets.store.schemas import SPLITS
from mctrace.datasets.store.store import StoreVersion
from mctrace.errors import InputError


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


@dataclass(frozen=True)
class PreferenceData:
    """Comparisons of a version, by split; see `open_preference_data`."""

    version: StoreVersion
    arrays: DocumentEmbeddings
    splits: Mapping[str, tuple[Comparison, ...]]
    """one item per worse variant, with the better ones to learn from"""
    groups: Mapping[str, tuple[Variant, ...]]
    """all variants of each group, also those that no pair names"""

    @property
    def absence(self) -> Absence:
        """`tree.absence` of the variants."""
        return absence_of(one.variant.head.tree for split in self.splits.values() for one in split)

    def comparisons(self, split: str) -> Sequence[Comparison]:
        """Comparisons of a split. Raises InputError when it is unknown or empty."""
        return of_split(self.splits, split, self.version, "pair of variants")


def open_preference_data(
    version: StoreVersion,
    *,
    max_pairs: int,
    hard_negative_share: float,
    where: str = "",
    mix: Collection[Mix] = (),
) -> PreferenceData:
    """Reads the pairs of `version` that `preference_selection.sql` selects.

    Raises InputError when there is none (the collector makes variants on request), or when pairs of different
    base models, GistNets or trees are mixed.
    """
    version.refuse_damaged(hash_tables=True)
    connection = connect(version)
    _choose_pairs(connection, max_pairs, hard_negative_share, where)
    if not fetch_rows(connection, "select 1 from chosen_pairs limit 1"):
        which = f" that meets the condition {where!r}" if where else ""
        raise InputError(
            f"{version.location.uri} at version {version.version} has no pair of variants{which}: the "
            "preference objective needs 'mctrace collect --set collect.num_random_variants=4'"
        )
    kinds = read_provenance(connection, "chosen_variants", version, where, mix)
    maps = read_maps(connection, "chosen_variants")
    variants = {row["snapshot_id"]: _variant(row, maps) for row in fetch_rows(connection, _VARIANTS)}
    better: dict[str, list[Variant]] = {}
    split_of: dict[str, str] = {}
    for row in fetch_rows(connection, "from chosen_pairs"):
        better.setdefault(row["worse_snapshot_id"], []).append(variants[row["better_snapshot_id"]])
        split_of[row["worse_snapshot_id"]] = row["split"]
    splits: dict[str, list[Comparison]] = {split: [] for split in SPLITS}
    for worse, others in better.items():
        splits[split_of[worse]].append(Comparison(variants[worse], tuple(others)))
    groups: dict[str, list[Variant]] = {}
    for variant in variants.values():
        groups.setdefault(variant.group_id, []).append(variant)
    return PreferenceData(
        version,
        DocumentEmbeddings(version, kinds),
        {split: tuple(found) for split, found in splits.items()},
        {name: tuple(found) for name, found in groups.items()},
    )


_VARIANTS = """
    select v.snapshot_id, v.document_id, v.variant_group_id, v.cursor, v.adv_delta, s.trajectory_id
    from variants as v
    join snapshots as s using (snapshot_id)
    semi join chosen_pairs using (variant_group_id)
    where v.adv_delta is not null
    order by v.variant_group_id, v.snapshot_id
"""


def _choose_pairs(
    connection: duckdb.DuckDBPyConnection, max_pairs: int, hard_negative_share: float, where: str
) -> None:
    if where:
        check_condition(where)
    sql = (
        Path(__file__)
        .with_name("preference_selection.sql")
        .read_text(encoding="utf-8")
        .format(
            where=f"({where}\n)" if where else "true",
            hard_negative_share=float(hard_negative_share),
            max_pairs=int(max_pairs),
        )
    )
    try:
        connection.execute(f"create temp table chosen_pairs as\n{sql}")
        connection.execute(f"create temp table chosen_variants as {_VARIANTS}")
    except duckdb.Error as error:
        raise InputError(f"the pairs cannot be chosen ({where or 'all'}): {str(error).strip()}") from error


def _variant(row: Mapping[str, Any], maps: Mapping[str, StoredMap]) -> Variant:
    return Variant(
        row["snapshot_id"],
        row["document_id"],
        row["variant_group_id"],
        row["cursor"],
        maps[row["trajectory_id"]],
        row["adv_delta"],
    )


def all_moves(data: PreferenceData, split: str) -> Iterator[tuple[Comparison, ...]]:
    """Every variant compared with every other of its group, group by group, for evaluation."""
    groups: dict[str, dict[str, Variant]] = {}
    for comparison in data.comparisons(split):
        for variant in (comparison.variant, *comparison.others):
            groups.setdefault(variant.group_id, {})[variant.snapshot_id] = variant
    for found in groups.values():
        moves: dict[str, list[Variant]] = {}
        for source, other in permutations(found.values(), 2):
            moves.setdefault(source.snapshot_id, []).append(other)
        yield tuple(Comparison(found[name], tuple(others)) for name, others in moves.items())
