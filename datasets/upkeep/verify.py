"""Found, not trusted: every file of a version held against what the ledger says of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store.file_verification import file_hash
from mctrace.datasets.store.ledger import Ledger
from mctrace.datasets.store.ledger_rows import CommittedPart
from mctrace.datasets.store.parts import Part, PartFile
from mctrace.datasets.store.schemas import ADDED_COLUMNS, TABLES
from mctrace.datasets.store.store import StoreVersion
from mctrace.datasets.upkeep.split_leaks import split_leaks
from mctrace.datasets.upkeep.verify_ledger import verify_ledger
from mctrace.errors import StoreError
from mctrace.progress import Progress

_REFERENCES = {
    "trajectories without their document": """
        select trajectory_id as example from stored_trajectories as t
        anti join stored_documents as d
            using (document_id, model_hash, gist_hash, dtype, block_size, max_level)""",
    "trajectories without their run": """
        select trajectory_id as example from stored_trajectories anti join stored_runs using (run_id)""",
    "trajectories without their model's embedding table": """
        select trajectory_id as example from stored_trajectories
        anti join stored_embeddings using (model_hash, dtype)""",
    "documents that are in two splits": """
        select document_id as example from stored_documents
        group by document_id having count(distinct split) > 1""",
    "effects without their trajectory": """
        select trajectory_id as example from stored_effects
        anti join stored_trajectories using (trajectory_id)""",
    "effects with the wrong number of tokens": """
        select trajectory_id as example from effects join trajectories using (trajectory_id)
        where status = 'ok' and end_token <> last_cursor + horizon""",
    "effects whose means are not those of their tokens": """
        select trajectory_id as example
        from (
            select
                trajectory_id, mean,
                delta_nll[cursor - first_token + 1 : cursor - first_token + horizon] as nats
            from (
                select
                    e.*, t.horizon, unnest(t.cursors) as cursor, unnest(e.cursor_delta_nll) as mean
                from stored_effects as e join stored_trajectories as t using (trajectory_id)
                where e.cursor_delta_nll is not null
            )
            where cursor is null or cursor >= first_token
        )
        where coalesce(abs(mean - list_avg(nats)) > 1e-6 + 1e-6 * abs(mean), true)""",
    "effects with values that are not finite": """
        select trajectory_id as example from effects
        where len(list_filter(delta_nll, lambda x: not isfinite(x))) > 0""",
    "joint effects without their trajectory": """
        select trajectory_id as example from stored_joint_effects
        anti join stored_trajectories using (trajectory_id)""",
    "attention without its trajectory": """
        select trajectory_id as example from stored_attention
        anti join stored_trajectories using (trajectory_id)""",
    "joint effects with values that are not finite": """
        select trajectory_id as example from stored_joint_effects
        where len(list_filter(delta_nll, lambda x: not isfinite(x))) > 0""",
    "effects whose status and value disagree": """
        select trajectory_id as example from stored_effects
        where (coalesce(status, '') = 'ok') <> (delta_nll is not null)""",
    "effects with an impossible inclusion probability": """
        select trajectory_id as example from stored_effects
        where inclusion_probability is null or not inclusion_probability between 1e-9 and 1""",
    "trajectories with a baseline that is no loss": """
        select trajectory_id as example from stored_trajectories
        where len(list_filter(baseline_nll, lambda x: not isfinite(x) or x < -1e-3)) > 0""",
    "trajectories with cursors out of order or beyond their document": """
        select t.trajectory_id as example
        from stored_trajectories as t
        join (select document_id, any_value(num_tokens) as num_tokens from stored_documents group by all) as d
            using (document_id)
        where t.cursors <> list_sort(t.cursors) or t.cursors[1] <= t.start
        or t.cursors[-1] + t.horizon > d.num_tokens""",
    "trajectories that are there twice": """
        select trajectory_id as example from stored_trajectories group by all having count(*) > 1""",
}
"""Contradictions between rows, each with a query for the ids of rows that show it."""


@dataclass(frozen=True)
class Problem:
    """A problem and its place."""

    place: str
    what: str


def verify(version: StoreVersion, *, quick: bool, progress: Progress) -> Iterator[Problem]:
    """Problems of the version's ledger, files and rows; `quick` skips hashes and row contents.

    Checks every part, whatever is wrong with another one.
    """
    damaged = False
    for place, what in verify_ledger(Ledger(version.location), version.version):
        damaged = True
        yield Problem(place, what)
    progress.start("verifying", len(version.parts), "parts")

    def problems_of(committed: CommittedPart) -> list[Problem]:
        return list(_verify_part(version, committed.part, quick=quick))

    for problems in version.location.each(problems_of, version.parts):
        damaged = damaged or bool(problems)
        yield from problems
        progress.advance()
    progress.stop()
    if not damaged and not quick:
        yield from _verify_references(version)
        yield from (Problem("tables", what) for what in split_leaks(version))


def leave_out_damaged(version: StoreVersion, progress: Progress) -> tuple[StoreVersion, list[Part]]:
    """Version without its damaged parts, and those parts: a file is missing or differs from the ledger.

    Checks hashes. Parts that a damaged one had replaced are checked in turn and take its place.
    """
    damaged: list[Part] = []
    looked_at: set[str] = set()
    while parts := [c.part for c in version.parts if c.part.part_id not in looked_at]:
        found = _damaged_among(version, parts, progress)
        looked_at |= {part.part_id for part in parts}
        damaged += found
        version = version.without({part.part_id for part in found})
    return version, damaged


def _damaged_among(version: StoreVersion, parts: Sequence[Part], progress: Progress) -> list[Part]:
    progress.start("checking", len(parts), "parts")
    damaged = []

    def is_damaged(part: Part) -> bool:
        return any(True for _ in _verify_part(version, part, quick=False))

    for part, bad in zip(parts, version.location.each(is_damaged, parts), strict=True):
        if bad:
            damaged.append(part)
        progress.advance()
    progress.stop()
    return damaged


def _verify_part(version: StoreVersion, part: Part, *, quick: bool) -> Iterator[Problem]:
    for file in part.files:
        place = f"{part.folder}/{file.path}"
        problem = _verify_file(version, place, file, quick=quick)
        if problem:
            yield Problem(place, problem)
        elif file.path.endswith(".parquet"):
            yield from _verify_table(version, place, part)


def _verify_file(version: StoreVersion, place: str, file: PartFile, *, quick: bool) -> str | None:
    size = version.location.size(place)
    if size is None:
        return "is missing"
    if size != file.size:
        return f"has {size} bytes, the ledger says {file.size}"
    if not quick and file_hash(version.location, place) != file.sha256:
        return "has other content than the ledger's sha256 says"
    return None


def _verify_table(version: StoreVersion, place: str, part: Part) -> Iterator[Problem]:
    name = place.rsplit("/", 1)[1].removesuffix(".parquet")
    with version.location.filesystem.open(version.location.path(place), "rb") as content:
        try:
            found = pq.ParquetFile(content)
        except (pa.ArrowException, OSError) as error:
            yield Problem(place, f"is not readable Parquet: {error}")
            return
        expected = part.num_rows.get(name)
        if found.metadata.num_rows != expected:
            yield Problem(place, f"has {found.metadata.num_rows} rows, the ledger says {expected}")
        names, known = set(found.schema_arrow.names), set(TABLES[name].names) if name in TABLES else set()
        unknown = (names - known) | (known - names - ADDED_COLUMNS.get(name, set())) if known else {name}
        if unknown:
            yield Problem(place, f"has another schema: {', '.join(sorted(unknown))}")


def _verify_references(version: StoreVersion) -> Iterator[Problem]:
    connection = connect(version)
    for what, query in _REFERENCES.items():
        try:
            rows = fetch_rows(connection, query)
        except StoreError as error:
            yield Problem("tables", f"cannot be read: {error}")
            continue
        if rows:
            yield Problem("tables", f"{len(rows)} {what}, e.g. {rows[0]['example']}")
