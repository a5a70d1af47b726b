"""What the preference objective reads: working-context variants of one window, and which of two was better.

A variant is a LOD map with its loss and no measured action; a pair says where the better map shows more
detail than the worse one, and where less.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import torch

from mctrace.context.lod_map import LODMap
from mctrace.datasets.batches.contexts import Context, padded, unlabelled_batch
from mctrace.datasets.batches.document_arrays import DocumentArrays
from mctrace.datasets.batches.labels import (
    StoredMap,
    of_split,
    read_maps,
    read_provenance,
)
from mctrace.datasets.batches.pair_batch import PairBatch
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.sql.sandbox import check_condition
from mctrace.datasets.store.provenance import Mix
from mctrace.datasets.store.schemas import SPLITS
from mctrace.datasets.store.store import StoreVersion
from mctrace.errors import InputError


@dataclass(frozen=True)
class Variant:
    """One working context of a group, all of which show the same window of a document."""

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
    """A variant and those it is compared with, each of them another of its group."""

    variant: Variant
    others: tuple[Variant, ...]


@dataclass(frozen=True)
class PreferenceData:
    """Every comparison of a version, by split; see `open_preference_data`."""

    version: StoreVersion
    arrays: DocumentArrays
    splits: Mapping[str, tuple[Comparison, ...]]
    """one item per worse variant, with the better ones it is to learn from"""

    def comparisons(self, split: str) -> tuple[Comparison, ...]:
        """The split's comparisons. Raises InputError when it is unknown or empty."""
        return of_split(self.splits, split, self.version, "pair of variants")


def open_preference_data(
    version: StoreVersion,
    *,
    max_pairs: int,
    hard_negative_share: float,
    where: str = "",
    mix: Collection[Mix] = (),
) -> PreferenceData:
    """Reads the pairs of `version` that `preference_selection.sql` chooses.

    Raises InputError when there is none (the collector makes variants when asked to), or those of different
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
    return PreferenceData(
        version, DocumentArrays(version, kinds), {split: tuple(found) for split, found in splits.items()}
    )


_VARIANTS = """
    select v.snapshot_id, v.document_id, v.variant_group_id, v.cursor, v.adv_delta, s.trajectory_id
    from variants as v
    join snapshots as s using (snapshot_id)
    semi join (
        select better_snapshot_id as snapshot_id from chosen_pairs
        union
        select worse_snapshot_id from chosen_pairs
    ) using (snapshot_id)
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


def make_pair_batch(data: PreferenceData, comparisons: Sequence[Comparison]) -> PairBatch:
    """One padded batch: a context per comparison, a move per variant it is compared with."""
    variants = [comparison.variant for comparison in comparisons]
    maps = [variant.lod_map for variant in variants]
    contexts = unlabelled_batch(
        [
            Context(lod_map, data.arrays.document(variant.document_id, variant.head.provenance))
            for lod_map, variant in zip(maps, variants, strict=True)
        ],
        [variant.snapshot_id for variant in variants],
        [variant.document_id for variant in variants],
    )
    moves = [(row, other) for row, comparison in enumerate(comparisons) for other in comparison.others]
    directions = [detail_direction(maps[row], other.lod_map) for row, other in moves]
    return PairBatch(
        contexts,
        row=torch.tensor([row for row, _ in moves]),
        direction=padded(directions, contexts.levels.shape[1], torch.float32),
        from_adv_delta=torch.tensor([variants[row].adv_delta for row, _ in moves]),
        to_adv_delta=torch.tensor([other.adv_delta for _, other in moves]),
        groups=tuple(other.group_id for _, other in moves),
    )


def detail_direction(source: LODMap, other: LODMap) -> npt.NDArray[np.float64]:
    """For each entry [N] of `source`: 1 where `other` shows its span finer, -1 where coarser, 0 where alike.

    Whole nodes tile both maps, so that `other` shows an entry's span either within one coarser node, alike,
    or finer throughout: looking at its first block is enough. A token is therefore never asked to expand, a
    gist of the coarsest level never to collapse.
    """
    same_window = (source.tree, source.start, source.cursor) == (other.tree, other.start, other.cursor)
    assert same_window, "variants of one group show one window"
    entries = source.entries
    block_N = (entries.first_token_N - source.start) // source.tree.block_size
    return np.sign(entries.level_N - other.levels[block_N].astype(np.int64)).astype(np.float64)


def all_moves(data: PreferenceData, split: str) -> Iterator[tuple[Comparison, ...]]:
    """Group by group, every variant compared with every other of its group: what an evaluation looks at."""
    groups: dict[str, dict[str, Variant]] = {}
    for comparison in data.comparisons(split):
        for variant in (comparison.variant, *comparison.others):
            groups.setdefault(variant.group_id, {})[variant.snapshot_id] = variant
    for found in groups.values():
        moves: dict[str, list[Variant]] = {}
        for source, other in permutations(found.values(), 2):
            moves.setdefault(source.snapshot_id, []).append(other)
        yield tuple(Comparison(found[name], tuple(others)) for name, others in moves.items())
