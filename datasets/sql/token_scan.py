"""Token ids of a version's documents as a table that DuckDB scans; nothing is read before a scan."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from mctrace.datasets.store.file_verification import known_to_match, matches_ledger
from mctrace.datasets.store.parquet_bytes import read_parquet
from mctrace.datasets.store.parts import Part
from mctrace.datasets.store.store import StoreVersion, damaged_file
from mctrace.datasets.store.zarr_arrays import ArrayFolder, DocumentPlace, read_tokens

SCHEMA = pa.schema(
    [("document_id", pa.string()), ("tokenizer_hash", pa.string()), ("tokens", pa.list_(pa.int32()))]
)


_TABLE = "documents.parquet"


class TokenScan:
    """Table with one row per document, through the Arrow interface; each scan reads the Zarr arrays again.

    A scan raises StoreError when a file is missing or differs from what the ledger says.
    """

    def __init__(self, version: StoreVersion) -> None:
        self._version = version

    def __arrow_c_schema__(self) -> object:
        return SCHEMA.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return pa.RecordBatchReader.from_batches(SCHEMA, self._batches()).__arrow_c_stream__(requested_schema)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        seen = set[str]()
        for part in (committed.part for committed in self._version.parts):
            if not part.num_rows.get("documents"):
                continue
            rows = read_parquet(_table(self._version, part)).to_pylist()
            # A document may be there once per GistNet.
            rows = [row for row in rows if row["document_id"] not in seen and row["arrays"] is not None]
            if not rows:
                continue
            seen.update(row["document_id"] for row in rows)
            places = [DocumentPlace.of({"first_rows": None, **row}) for row in rows]  # older files lack it
            arrays = ArrayFolder.of(self._version, places[0].folder)
            tokens = [found.astype(np.int32) for found in read_tokens(arrays, places)]
            columns = [[row[name] for row in rows] for name in ("document_id", "tokenizer_hash")]
            yield pa.record_batch([*columns, pa.array(tokens, pa.list_(pa.int32()))], schema=SCHEMA)


def _table(version: StoreVersion, part: Part) -> bytes:
    location, place = version.location, f"{part.folder}/{_TABLE}"
    (file,) = (file for file in part.files if file.path == _TABLE)
    try:
        content = location.read_bytes(place)
    except OSError as error:
        raise damaged_file(location, place) from error
    if not known_to_match(location, place, file) and not matches_ledger(location, place, file, content):
        raise damaged_file(location, place)
    return content
