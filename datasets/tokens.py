"""The token ids of a version's documents as something that DuckDB can scan; nothing is read before it is."""

import io
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mctrace.datasets.arrays import open_arrays, read_array
from mctrace.datasets.store import StoreVersion

SCHEMA = pa.schema(
    [("document_id", pa.string()), ("tokenizer_hash", pa.string()), ("tokens", pa.list_(pa.int32()))]
)
_COLUMNS = ["document_id", "tokenizer_hash", "arrays"]


class DocumentTokens:
    """One row per document, through the Arrow interface; each scan reads the Zarr arrays again."""

    def __init__(self, version: StoreVersion) -> None:
        self._version = version

    def __arrow_c_schema__(self) -> object:
        return SCHEMA.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return pa.RecordBatchReader.from_batches(SCHEMA, self._batches()).__arrow_c_stream__(requested_schema)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        location, seen = self._version.location, set()
        for part in (committed.part for committed in self._version.parts):
            if not part.num_rows.get("documents"):
                continue
            content = location.read_bytes(f"{part.folder}/documents.parquet")
            for row in pq.read_table(io.BytesIO(content), columns=_COLUMNS).to_pylist():
                if row["document_id"] in seen or row["arrays"] is None:  # it may be there once per GistNet
                    continue
                seen.add(row["document_id"])
                tokens = read_array(open_arrays(location, row["arrays"]), "tokens").astype(np.int32)
                yield pa.record_batch(
                    [[row["document_id"]], [row["tokenizer_hash"]], pa.array([tokens], pa.list_(pa.int32()))],
                    schema=SCHEMA,
                )
