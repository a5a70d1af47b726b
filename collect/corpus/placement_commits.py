"""Placements committed before anything of their documents is measured, so that no two drivers disagree.

Drivers plan at the same time, and neither knows what the other has just read. So each driver commits first
which document is in which split: one part whose id is the number of placement parts before it. Of two
drivers that start from the same placements only one can commit that id; the other one searches the new
placements for near-duplicates of its own documents, and moves those of its own that have any to their split.
"""

import io
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mctrace.collect.config import CorpusConfig
from mctrace.collect.corpus.corpus_reader import Skipped
from mctrace.collect.corpus.documents import Document
from mctrace.collect.corpus.splits import BETWEEN_SPLITS, Placement, SplitAssigner
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store.parts import Part, part_digest, write_part
from mctrace.datasets.store.store import Store, StoreVersion
from mctrace.errors import StoreError

KIND = "placements"
_MOST_TRIES = 1000
_QUERY = """
    select document_id, split_group, split, minhash from stored_placements
    union all select document_id, split_group, split, minhash from stored_documents"""


def known_placements(store: Store | None) -> dict[str, Placement]:
    """Splits and signatures of the documents that are placed in the store, measured or not."""
    return _placements_at(store.at()) if store else {}


def commit_placements(
    store: Store, documents: Mapping[str, Document], config: CorpusConfig, run_id: str, left_out: Skipped
) -> dict[str, Document]:
    """Commit the documents' placements and return the documents as the store now places them.

    Safe against other drivers that do the same at the same time. A document that has become a near-duplicate
    of documents in two splits is left out and counted in `left_out`.
    """
    version = store.at()
    known, seen = _placements_at(version), version.part_ids
    for _ in range(_MOST_TRIES):
        placed = _place_among(known, documents.values(), config)
        new = [document for document in placed.values() if document.document_id not in known]
        if not new or _commit_first(store, _write(store, version, new, config, run_id)):
            for document in (d for d in documents.values() if d.document_id not in placed):
                left_out.add(BETWEEN_SPLITS, document.source)
            return placed
        version = store.at()
        known |= _placed_meanwhile(version, seen)
        seen = version.part_ids
    raise StoreError(
        f"cannot place documents in {store.location.uri}: other drivers were always first; run the same "
        "command again"
    )


def _placements_at(version: StoreVersion) -> dict[str, Placement]:
    return _placements_of(fetch_rows(connect(version), _QUERY))


def _placed_meanwhile(version: StoreVersion, seen: Collection[str]) -> dict[str, Placement]:
    """Placements of the parts committed since `seen`, read one by one: faster than a query, in a race."""
    found: dict[str, Placement] = {}
    for part in (c.part for c in version.listed):
        if part.kind == KIND and part.part_id not in seen:
            content = version.location.read_bytes(f"{part.folder}/{KIND}.parquet")
            found |= _placements_of(pq.read_table(io.BytesIO(content)).to_pylist())
    return found


def _placements_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, Placement]:
    return {
        row["document_id"]: Placement(
            row["split_group"], row["split"], np.asarray(row["minhash"], dtype=np.uint32)
        )
        for row in rows
    }


def _place_among(
    known: Mapping[str, Placement], documents: Iterable[Document], config: CorpusConfig
) -> dict[str, Document]:
    assigner = SplitAssigner(config, known)
    placed: dict[str, Document] = {}
    for document in documents:
        placement = assigner.place_as(document.document_id, document.placement)
        if placement:
            placed[document.document_id] = replace(document, placement=placement)
    return placed


def _write(
    store: Store, version: StoreVersion, new: Iterable[Document], config: CorpusConfig, run_id: str
) -> Part:
    num_bands, band_size = SplitAssigner(config, {}).bands
    rows = [
        {
            "document_id": document.document_id,
            "tokenizer_hash": document.tokenizer_hash,
            "split_group": document.placement.split_group,
            "split": document.placement.split,
            "minhash": document.placement.minhash.tolist(),
            "threshold": config.near_duplicate_threshold,
            "num_bands": num_bands,
            "band_size": band_size,
        }
        for document in new
    ]
    return write_part(
        store.location, part_id=_next_id(version), kind=KIND, run_id=run_id, tables={"placements": rows}
    )


def _next_id(version: StoreVersion) -> str:
    """The id that follows the version's placements; where some were withdrawn, the first that is free."""
    number = sum(committed.part.kind == KIND for committed in version.listed)
    while (part_id := part_digest({KIND: number})) in version.part_ids:
        number += 1
    return part_id


def _commit_first(store: Store, part: Part) -> bool:
    """Commit `part`; True when it, not another driver's, is the one listed under its id."""
    store.commit([part])
    counts = next(c.part for c in store.at().listed if c.part.part_id == part.part_id)
    return counts.folder == part.folder
