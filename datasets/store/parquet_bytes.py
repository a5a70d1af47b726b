"""Parquet files that are in memory as bytes, read in the calling thread.

Arrow's threads may still hold such bytes when a process ends. They are Python's, and freeing them after the
interpreter has shut down aborts the process ("terminate called without an active exception"), whatever its
exit status was to be.
"""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq


def read_parquet(content: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a Parquet file, all columns or those named. Raises ArrowException when it is none."""
    file = pq.ParquetFile(pa.BufferReader(content))
    return file.read(columns=None if columns is None else list(columns), use_threads=False)
