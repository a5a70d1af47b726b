"""Placements committed before anything of their documents is measured, so that no two drivers disagree.

Drivers plan at the same time, and neither knows what the other has just read. So each driver commits first
which document is in which split: one part whose id is the number of placement parts before it. Of two
drivers that start from the same placements only one can commit that id; the other one searches the new
placements for near-duplicates of its own documents, and moves those of its own that have any to their split.
Documents come in batches, as they are planned.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from mctrace.collect.config import CorpusConfig
from mctrace.collect.corpus.corpus_reader import Skipped
from mctrace.collect.corpus.documents import Document
from mctrace.collect.corpus.split_assigner import BETWEEN_SPLITS, Placement, SplitAssigner
from mctrace.datasets.sql.connection import connect
from mctrace.datasets.store.parquet_bytes import read_parquet
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


class PlacementCommits:
    """Commits placements of a run's documents batch by batch, safe against other drivers that do the same."""

    def __init__(
        self, store: Store, assigner: SplitAssigner, config: CorpusConfig, run_id: str, left_out: Skipped
    ) -> None:
        self._store, self._assigner, self._config = store, assigner, config
        self._run_id, self._left_out = run_id, left_out
        self._number = 0
        self._take_in_others()

    def commit(self, documents: Sequence[Document]) -> list[Document]:
        """Commit the documents' placements and return the documents as the store now places them.

        A document that has become a near-duplicate of documents in two splits is left out and counted.
        """
        for _ in range(_MOST_TRIES):
            placed = [document for document in map(self._placed, documents) if document]
            new = [document for document in placed if self._assigner.is_open(document.document_id)]
            if not new or self._commit_first(new):
                kept = {document.document_id for document in placed}
                for document in (d for d in documents if d.document_id not in kept):
                    self._left_out.add(BETWEEN_SPLITS, document.source)
                self._assigner.settle(kept)
                self._assigner.settle(d.origin.document_id for d in placed if d.origin)
                return placed
            self._take_in_others()
        raise StoreError(
            f"cannot place documents in {self._store.location.uri}: other drivers were always first; run the "
            "same command again"
        )

    def _placed(self, document: Document) -> Document | None:
        placement = self._assigner.placement_of(document.document_id, document.placement.minhash)
        return replace(document, placement=placement) if placement else None

    def _commit_first(self, new: Sequence[Document]) -> bool:
        """Commit the next part of placements; False when another driver's is listed under its id."""
        is_first = bool(self._store.commit([self._write(new)]))
        self._number += is_first
        return is_first

    def _write(self, new: Iterable[Document]) -> Part:
        num_bands, band_size = self._assigner.bands
        rows = [
            {
                "document_id": identity,
                "tokenizer_hash": tokenizer_hash,
                "split_group": placement.split_group,
                "split": placement.split,
                "minhash": placement.minhash.tolist(),
                "threshold": self._config.near_duplicate_threshold,
                "num_bands": num_bands,
                "band_size": band_size,
            }
            for identity, (tokenizer_hash, placement) in self._placements_of(new).items()
        ]
        return write_part(
            self._store.location,
            part_id=part_digest({KIND: self._number}),
            kind=KIND,
            run_id=self._run_id,
            tables={"placements": rows},
        )

    def _placements_of(self, new: Iterable[Document]) -> dict[str, tuple[str, Placement]]:
        """Tokenizer and placement by id: of the documents, and of their origins that are not committed."""
        found: dict[str, tuple[str, Placement]] = {}
        for document in new:
            if origin := document.origin:
                placement = self._assigner.placement_of(origin.document_id, origin.intended.minhash)
                if placement and self._assigner.is_open(origin.document_id):
                    found[origin.document_id] = (document.tokenizer_hash, placement)
            found[document.document_id] = (document.tokenizer_hash, document.placement)
        return found

    def _take_in_others(self) -> None:
        """Learn what was placed meanwhile, and which part comes next; where some were withdrawn, the first
        that is free."""
        listed, new = self._store.ledger.refresh(), []
        while (part_id := part_digest({KIND: self._number})) in listed:
            new.append(part_id)
            self._number += 1
        others: dict[str, Placement] = {}
        for part in self._store.ledger.parts_named(new) if new else ():
            content = self._store.location.read_bytes(f"{part.folder}/{KIND}.parquet")
            others |= _placements_of(read_parquet(content))
        if not all(self._assigner.is_settled(identity) for identity in others):
            self._assigner.rebase(others)


def _placements_at(version: StoreVersion) -> dict[str, Placement]:
    return _placements_of(connect(version).sql(_QUERY).to_arrow_table())


def _placements_of(table: pa.Table) -> dict[str, Placement]:
    """By column: as Python's objects a signature takes kilobytes."""
    found: dict[str, Placement] = {}
    for batch in table.select(["document_id", "split_group", "split", "minhash"]).to_batches():
        signatures = batch["minhash"].flatten().to_numpy(zero_copy_only=False).astype(np.uint32)
        rows = signatures.reshape(len(batch), -1)
        names = (batch[name].to_pylist() for name in ("document_id", "split_group", "split"))
        for identity, group, split, minhash in zip(*names, rows, strict=True):
            found[identity] = Placement(group, split, minhash)
    return found
