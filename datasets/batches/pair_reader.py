"""Reading preference pairs: working-context variants of one window, and which of two had the lower loss.

A variant is a LOD map with its loss and no measured action.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, permutations
from pathlib import Path

import duckdb

from mctrace.context.tree import Absence
from mctrace.datasets.batches.arrow_files import arrow_folder
from mctrace.datasets.batches.document_embeddings import DocumentEmbeddings
from mctrace.datasets.batches.label_reader import OncePerMachine, alone, of_split
from mctrace.datasets.batches.pair_files import (
    Comparison,
    Comparisons,
    SplitRows,
    Variant,
    open_pair_files,
    write_pair_files,
)
from mctrace.datasets.batches.stored_maps import read_provenance
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.sql.limits import SqlLimits
from mctrace.datasets.sql.sandbox import check_condition
from mctrace.datasets.store.provenance import Mix, Provenance
from mctrace.datasets.store.store import StoreVersion
from mctrace.errors import InputError


@dataclass(frozen=True)
class PreferenceData:
    """Comparisons of a version, by split; see `open_preference_data`."""

    version: StoreVersion
    arrays: DocumentEmbeddings
    splits: Mapping[str, Comparisons]
    """one item per variant to score, with those to compare it with"""
    rows: Mapping[str, SplitRows]
    """what SQL says of all comparisons of each split"""
    absence: Absence
    """`tree.absence` of the variants; off where no trajectory's blocks may be absent"""

    def comparisons(self, split: str) -> Comparisons:
        """Comparisons of a split. Raises InputError when it is unknown or empty."""
        of_split(self.splits, split, self.version, "pair of variants")
        return self.splits[split]


def open_preference_data(
    version: StoreVersion,
    *,
    max_pairs: int,
    hard_negative_share: float,
    both: bool = False,
    where: str = "",
    mix: Collection[Mix] = (),
    limits: SqlLimits | None = None,
    once_per_machine: OncePerMachine = alone,
) -> PreferenceData:
    """Opens the pairs of `version` that `preference_selection.sql` selects.

    They are written to a temporary folder, by one process of each machine, and mapped into memory from there.
    Each compares its worse variant with the better one; with `both` also the better with the worse. `limits`
    are of the memory and disk of SQL.

    Raises InputError when there is none (the collector makes variants on request), or when pairs of different
    base models, GistNets or trees are mixed.
    """

    @contextmanager
    def written() -> Iterator[_Written]:
        version.refuse_damaged(hash_tables=True)
        with arrow_folder("pairs") as folder, connect(version, limits=limits) as connection:
            _choose_pairs(connection, max_pairs, hard_negative_share, where)
            if not fetch_rows(connection, "select 1 from chosen_pairs limit 1"):
                raise _no_pair(version, where)
            kinds = read_provenance(connection, "chosen_variants", version, where, mix)
            rows = write_pair_files(connection, folder, both=both)
            absences = fetch_rows(connection, _ABSENCES)
            yield _Written(folder, rows, kinds, absences[0]["absence"] if absences else "off")

    def opened(files: _Written) -> PreferenceData:
        comparisons = open_pair_files(files.folder, files.rows)
        arrays = DocumentEmbeddings(version, files.kinds)
        return PreferenceData(version, arrays, comparisons, files.rows, files.absence)

    return once_per_machine(written, opened)


@dataclass(frozen=True)
class _Written:
    """Pair files, and what SQL says of all of them."""

    folder: Path
    rows: Mapping[str, SplitRows]
    kinds: tuple[Provenance, ...]
    absence: Absence


def _no_pair(version: StoreVersion, where: str) -> InputError:
    which = f" that meets the condition {where!r}" if where else ""
    return InputError(
        f"{version.location.uri} at version {version.version} has no pair of variants{which}: the "
        "preference objective needs 'mctrace collect --set collect.num_random_variants=4'"
    )


_ABSENCES = "select absence from chosen_maps where absence <> 'off' order by absence limit 1"

_VARIANTS = """
    select v.snapshot_id, v.document_id, v.variant_group_id, v.cursor, v.adv_delta, s.trajectory_id
    from variants as v
    join snapshots as s using (snapshot_id)
    semi join chosen_pairs using (variant_group_id)
    where v.adv_delta is not null
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


def all_moves(data: PreferenceData, split: str) -> Iterator[tuple[Comparison, ...]]:
    """Every variant compared with every other of its group, group by group, for evaluation."""
    for _, comparisons in groupby(data.comparisons(split), lambda one: one.variant.group_id):
        found: dict[str, Variant] = {}
        group: tuple[Variant, ...] = ()
        for comparison in comparisons:
            group = comparison.group
            for variant in (comparison.variant, *comparison.others):
                found[variant.snapshot_id] = variant
        moves: dict[str, list[Variant]] = {}
        for source, other in permutations(found.values(), 2):
            moves.setdefault(source.snapshot_id, []).append(other)
        yield tuple(Comparison(found[name], tuple(others), group) for name, others in moves.items())
