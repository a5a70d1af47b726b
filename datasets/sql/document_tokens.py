"""The token ids of a version's documents as something that DuckDB can scan; nothing is read before it is."""

import io
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mctrace.datasets.store.arrays import DocumentPlace, array_of_level, read_tokens
from mctrace.datasets.store.location import Location
from mctrace.datasets.store.parts import ARRAYS, Part
from mctrace.datasets.store.store import StoreVersion, damaged_file

SCHEMA = pa.schema(
    [("document_id", pa.string()), ("tokenizer_hash", pa.string()), ("tokens", pa.list_(pa.int32()))]
)


_TABLE = "documents.parquet"


class DocumentTokens:
    """One row per document, through the Arrow interface; each scan reads the Zarr arrays again.

    A scan raises StoreError when a file that it reads is missing or has another size than the ledger says.
    """

    def __init__(self, version: StoreVersion) -> None:
        self._version = version

    def __arrow_c_schema__(self) -> object:
        return SCHEMA.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return pa.RecordBatchReader.from_batches(SCHEMA, self._batches()).__arrow_c_stream__(requested_schema)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        location, seen = self._version.location, set[str]()
        for part in (committed.part for committed in self._version.parts):
            if not part.num_rows.get("documents"):
                continue
            _refuse_damaged(location, part)
            content = location.read_bytes(f"{part.folder}/{_TABLE}")
            rows = pq.read_table(io.BytesIO(content)).to_pylist()
            # A document may be there once per GistNet.
            rows = [row for row in rows if row["document_id"] not in seen and row["arrays"] is not None]
            if not rows:
                continue
            seen.update(row["document_id"] for row in rows)
            places = [DocumentPlace.of({"first_rows": None, **row}) for row in rows]  # older files lack it
            tokens = [found.astype(np.int32) for found in read_tokens(location, places)]
            columns = [[row[name] for row in rows] for name in ("document_id", "tokenizer_hash")]
            yield pa.record_batch([*columns, pa.array(tokens, pa.list_(pa.int32()))], schema=SCHEMA)


def _refuse_damaged(location: Location, part: Part) -> None:
    """A missing chunk of token ids would read as zeros without a word."""
    tokens = f"{ARRAYS}/{array_of_level(0)}/"
    read = [file for file in part.files if file.path == _TABLE or file.path.startswith(tokens)]
    places = [f"{part.folder}/{file.path}" for file in read]
    for file, place, size in zip(read, places, location.each(location.size, places), strict=True):
        if size != file.size:
            raise damaged_file(location, place)
