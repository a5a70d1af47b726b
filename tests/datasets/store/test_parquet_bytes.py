"""Tables from bytes: equal to what was written, and read without a thread that could outlive Python."""

import io
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mctrace.datasets.store.parquet_bytes import read_parquet

TABLE = pa.table({"a": [1, 2, None], "b": [["x"], [], None]})

READS = """
import io, os
import pyarrow as pa
import pyarrow.parquet as pq
from mctrace.datasets.store.parquet_bytes import read_parquet
buffer = io.BytesIO()
pq.write_table(pa.table({name: range(1000) for name in "abcdef"}), buffer, row_group_size=100)
before = len(os.listdir("/proc/self/task"))
read_parquet(buffer.getvalue())
print(len(os.listdir("/proc/self/task")) - before)
"""


def parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def test_a_table_comes_back_whole_or_by_columns():
    assert read_parquet(parquet(TABLE)).equals(TABLE)
    assert read_parquet(parquet(TABLE), ["b"]).equals(TABLE.select(["b"]))


def test_what_is_no_parquet_file_is_refused():
    with pytest.raises(pa.ArrowException):
        read_parquet(parquet(TABLE)[:-5])


def test_no_thread_is_started():
    done = subprocess.run([sys.executable, "-c", READS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0"]
