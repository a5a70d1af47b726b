"""Files of an export: shards of a table per split, in the layout that readers expect.

Both layouts are plain data (Parquet, or Arrow streams as `datasets.save_to_disk` leaves them): no script, no
pickle, and nothing of Hugging Face's library is needed to write them.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from mctrace.errors import StoreError

ExportFormat = Literal["hf", "parquet"]
"""hf: for datasets.load_from_disk. parquet: for datasets.load_dataset, and for everything else."""

_ORDER = ("train", "validation", "test")
_SHARD_BYTES = 512 * 2**20
"""Bytes at which a file is closed and the next begins."""


@dataclass
class SplitFiles:
    """One split of one table, written batch by batch; the next file begins when one is full."""

    folder: Path
    """of the table"""
    split: str
    schema: pa.Schema
    layout: ExportFormat
    num_rows: int = 0
    names: list[str] = field(default_factory=list)
    _sink: Any = None
    _writer: Any = None

    def write(self, batch: pa.RecordBatch) -> None:
        if self._writer is None:
            self._open()
        try:
            self._writer.write_batch(batch)
        except OSError:
            self._abandon()
            raise
        self.num_rows += batch.num_rows
        if self._sink.tell() >= _SHARD_BYTES:
            self._close()

    def finish(self) -> None:
        """Closes the last file and writes what the layout keeps beside each split."""
        self._close()
        if self.layout == "hf":
            self._describe_to_hf()

    def _open(self) -> None:
        if self.layout == "hf":
            path = self.folder / self.split / f"data-{len(self.names):05}.arrow"
        else:
            path = self.folder / f"{self.split}-{len(self.names):05}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._sink = pa.OSFile(str(path), "wb")
        if self.layout == "hf":
            self._writer = pa.ipc.new_stream(self._sink, self.schema)
        else:
            self._writer = pq.ParquetWriter(self._sink, self.schema, compression="zstd")
        self.names.append(path.name)

    def _close(self) -> None:
        if self._writer is None:
            return
        try:
            self._writer.close()
            self._sink.close()
        except OSError:
            self._abandon()
            raise
        self._writer = None

    def _abandon(self) -> None:
        """After a failure: a Parquet writer would try again, and fail aloud, when it is collected."""
        if self.layout == "parquet":
            self._writer.is_open = False
        self._writer = None

    def _describe_to_hf(self) -> None:
        """What `Dataset.load_from_disk` reads first. The columns' types are taken from the files."""
        folder, digest = self.folder / self.split, hashlib.sha256()
        for name in self.names:
            with (folder / name).open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        state: dict[str, object] = {
            "_data_files": [{"filename": name} for name in self.names],
            "_fingerprint": digest.hexdigest()[:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": self.split,
        }
        write_json(folder / "state.json", state)
        write_json(folder / "dataset_info.json", {"features": None})


@dataclass
class TableFiles:
    """One table of an export: `documents/` or the like, with the splits that have rows."""

    folder: Path
    layout: ExportFormat
    splits: dict[str, SplitFiles] = field(default_factory=dict)
    schema: pa.Schema = field(default_factory=lambda: pa.schema([]))
    """of what was written"""

    def write(self, split: str, batch: pa.RecordBatch) -> None:
        if split not in _ORDER:  # it becomes a file's name
            raise StoreError(f"a document is in the split {split!r}: {', '.join(_ORDER)} exist")
        self.schema = batch.schema
        if split not in self.splits:
            self.splits[split] = SplitFiles(self.folder, split, batch.schema, self.layout)
        self.splits[split].write(batch)

    def finish(self) -> None:
        self.splits = {split: self.splits[split] for split in sorted(self.splits, key=_ORDER.index)}
        for files in self.splits.values():
            files.finish()
        if self.layout == "hf":
            write_json(self.folder / "dataset_dict.json", {"splits": list(self.splits)})

    @property
    def num_rows(self) -> dict[str, int]:
        """Rows by split."""
        return {split: files.num_rows for split, files in self.splits.items()}


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
