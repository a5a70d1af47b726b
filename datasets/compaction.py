"""Many small parts of measurements into few large ones, as a new version: quicker to open, all else the same.

A compacted part lists in its lineage the parts it stands for, in commit order, and holds their rows in that
order. They stay where they are, for the versions that name them.
"""

import hashlib
import io
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from mctrace.context.errors import StoreError
from mctrace.context.progress import Progress
from mctrace.datasets.parts import Part, write_part
from mctrace.datasets.schemas import TABLES
from mctrace.datasets.store import Store, StoreVersion

_KINDS = ("trajectory", "drops", "joints", "attention")
_MOST_BYTES = 256 * 2**20
_MOST_PARTS = 4096
RUN_ID = "compaction"


def compact(store: Store, progress: Progress) -> list[Part]:
    """Commits one part for every group of parts that were not compacted yet; returns the new ones.

    Raises StoreError when a file is not what the ledger says, before anything of its group is committed.
    """
    version, made = store.at(), []
    groups = [group for kind in _KINDS for group in _groups(version, kind)]
    progress.start("compacting", sum(map(len, groups)), "parts")
    try:
        for group in groups:
            made += store.commit([_merge(version, group)])
            progress.advance(len(group))
    finally:
        progress.stop()
    return made


def _groups(version: StoreVersion, kind: str) -> Iterator[list[Part]]:
    group: list[Part] = []
    for part in (c.part for c in version.parts if c.part.kind == kind and not c.part.lineage):
        if group and (sum(p.size for p in group) + part.size > _MOST_BYTES or len(group) >= _MOST_PARTS):
            yield group
            group = []
        group.append(part)
    if len(group) > 1:
        yield group


def _merge(version: StoreVersion, group: list[Part]) -> Part:
    lineage = tuple(part.part_id for part in group)
    return write_part(
        version.location,
        part_id=hashlib.sha256(" ".join(("compacted", *lineage)).encode()).hexdigest()[:40],
        kind=group[0].kind,
        run_id=RUN_ID,
        tables={
            name: pa.concat_tables([_read(version, part, name) for part in group if name in part.num_rows])
            for name in TABLES
            if any(name in part.num_rows for part in group)
        },
        lineage=lineage,
    )


def _read(version: StoreVersion, part: Part, name: str) -> pa.Table:
    """A part's table with today's columns; its hash is held against the ledger first."""
    (file,) = (file for file in part.files if file.path == f"{name}.parquet")
    place = f"{part.folder}/{file.path}"
    try:
        content = version.location.read_bytes(place)
    except OSError as error:
        raise StoreError(f"{place} cannot be read: {error} (mctrace verify)") from error
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise StoreError(f"{place} is damaged: nothing more is compacted (mctrace verify)")
    table, schema = pq.read_table(io.BytesIO(content)), TABLES[name]
    columns = [
        table[field.name] if field.name in table.schema.names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, names=schema.names).cast(schema)
