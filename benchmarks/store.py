"""`make bench-store`: the size of a trace store, and the speed of writing, opening and reading it.

Compared with the naive record of the specification, every embedding of every snapshot: in bytes; and in
reading speed, as one np.memmap and as Parquet read by pyarrow.dataset, in one process. "Cold" begins with the
files dropped from the page cache and nothing in memory, "warm" is the epoch after.

The last line printed is one JSON object, which is also written to benchmarks/results/.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import torch

from benchmarks.machine import processor_name
from benchmarks.store_cases import (
    HORIZON,
    LEVEL0,
    MIXED,
    RECENCY,
    SMALL,
    STRIDE,
    TREE,
    VOCABULARY,
    WIDTH,
    StoreCase,
    make_store,
    write_trajectory,
)
from mctrace.datasets.batches.collate import shuffled_batches
from mctrace.datasets.batches.document_embeddings import _read_document
from mctrace.datasets.batches.label_reader import TrainingData, open_training_data
from mctrace.datasets.batches.padded_batch import NUM_TAIL_GISTS
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store.parts import Part, write_part
from mctrace.datasets.store.store import Store, open_store
from mctrace.datasets.upkeep.compaction import compact
from mctrace.progress import Silent
from mctrace.train.config import TrainConfig
from mctrace.train.networks.registry import build_network

RESULTS = Path(__file__).parent / "results"
BATCH = 8
_TINY = StoreCase("tiny", (0, 0, 6), 2)
"""for stores of very many parts"""


def size_of(folder: Path, case: StoreCase, num_documents: int, per_document: int) -> dict[str, Any]:
    """Bytes per snapshot by kind of part, against those of the naive record."""
    store = make_store(folder, case, num_documents, per_document)
    parts = [committed.part for committed in store.at().parts]
    num_snapshots = num_documents * per_document * case.num_cursors
    by_kind = {
        kind: sum(part.size for part in parts if part.kind == kind) / num_snapshots
        for kind in ("document", "trajectory")
    }
    ledger = sum(file.stat().st_size for file in (folder / "ledger").rglob("*") if file.is_file())
    bytes_per_snapshot = sum(by_kind.values()) + ledger / num_snapshots
    trajectory = case.trajectory()
    num_entries = statistics.mean(trajectory.head.extended(c).num_entries for c in trajectory.cursors)
    naive = 4 * WIDTH * (num_entries + NUM_TAIL_GISTS)
    return {
        "case": case.name, "num_entries": num_entries, "R": case.num_cursors,
        "trajectories_per_document": per_document, "num_snapshots": num_snapshots,
        "bytes_per_snapshot": bytes_per_snapshot, "naive_bytes_per_snapshot": naive,
        "naive_over_store": naive / bytes_per_snapshot,
        **{f"{kind}_bytes_per_snapshot": size for kind, size in by_kind.items()},
        "ledger_bytes_per_snapshot": ledger / num_snapshots,
        "embedding_table_bytes_once": sum(part.size for part in parts if part.kind == "embeddings"),
    }  # fmt: skip


def time_ledger(folder: Path, counts: tuple[int, ...]) -> list[dict[str, Any]]:
    """Time of a commit and of opening at several numbers of parts: small ones, committed 64 at once."""
    store, random = make_store(folder, _TINY, 1), np.random.default_rng(1)
    rows, number = [], 0
    for count in counts:
        while len(store.ledger.rows()[1]) < count:
            some = [
                write_trajectory(store, f"t{number + i:07}", "document000000", _TINY, random)
                for i in range(min(64, count - len(store.ledger.rows()[1])))
            ]
            number += len(some)
            store.commit(some)
        rows.append({"num_parts": count, **_time_commits(store, f"c{count}"), **_time_opening(folder)})
        print(json.dumps(rows[-1]), flush=True)
    compact(store, Silent())
    rows.append({"num_parts": counts[-1], "compacted": True, **_time_opening(folder)})
    print(json.dumps(rows[-1]), flush=True)
    return rows


def _time_commits(store: Store, prefix: str) -> dict[str, float]:
    """Milliseconds of committing one part: in a running driver, and in one that has just started."""
    fresh = [seconds(lambda i=i: open_store(store.location.uri).commit([_bare_part(f"{prefix}-f{i}")]))
             for i in range(3)]  # fmt: skip
    warm = [seconds(lambda i=i: store.commit([_bare_part(f"{prefix}-w{i}")])) for i in range(9)]
    written = [
        seconds(lambda i=i: write_part(store.location, part_id=f"{prefix}-p{i}", kind="run", run_id="run",
                                       tables={"runs": []}))
        for i in range(9)
    ]  # fmt: skip
    return {
        "commit_ms": 1000 * statistics.median(warm),
        "first_commit_ms": 1000 * statistics.median(fresh),
        "write_part_ms": 1000 * statistics.median(written),
    }


def _bare_part(part_id: str) -> Part:
    """A part without files, to time the ledger alone."""
    return Part(part_id, "run", "run", f"parts/run/xx/{part_id}", (), {})


def _time_opening(folder: Path) -> dict[str, float]:
    """Seconds to read a version's parts, to create the views, and of a first query."""
    ledger, views, query = [], [], []
    for _ in range(3):
        started = time.perf_counter()
        at = open_store(str(folder)).at()
        ledger.append(time.perf_counter() - started)
        connection = connect(at)
        views.append(time.perf_counter() - started - ledger[-1])
        query.append(seconds(partial(fetch_rows, connection, "select count(*) as n from labels")))
        connection.close()
    check = seconds(open_store(str(folder)).at().refuse_damaged)
    return {
        "open_s": statistics.median(ledger) + statistics.median(views),
        "ledger_s": statistics.median(ledger),
        "views_s": statistics.median(views),
        "count_labels_s": statistics.median(query),
        "check_sizes_s": check,
    }


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


class Readers:
    """Three readers of the same epoch: batches of context embeddings with their targets."""

    def __init__(self, folder: Path, case: StoreCase, num_documents: int) -> None:
        self.store_folder = folder / "store"
        make_store(self.store_folder, case, num_documents)
        data = self._open()
        snapshots = data.snapshots("train")
        self.num_snapshots = len(snapshots)
        self.num_entries = max(len(s.lod_map.entries) for s in snapshots)
        self.array, self.parquet = folder / "naive.f32", folder / "naive.parquet"
        self._write_naive(data)
        self.data: TrainingData | None = None

    def _open(self) -> TrainingData:
        return open_training_data(open_store(str(self.store_folder)).at(), "literal", utility_scale=1.0)

    def _write_naive(self, data: TrainingData) -> None:
        shape = (self.num_snapshots, self.num_entries, WIDTH)
        array = np.memmap(self.array, np.float32, "w+", shape=shape)
        schema = pa.schema([("embeddings", pa.list_(pa.float32(), self.num_entries * WIDTH)),
                            ("target", pa.list_(pa.float32(), self.num_entries))])  # fmt: skip
        first = 0
        with pq.ParquetWriter(self.parquet, schema, compression="none", use_dictionary=False) as writer:
            for batch in shuffled_batches(data, "train", BATCH, seed=0, epoch=0):
                padded = torch.zeros(len(batch), self.num_entries, WIDTH)
                padded[:, : batch.context_embeddings.shape[1]] = batch.context_embeddings
                target = torch.zeros(len(batch), self.num_entries)
                target[:, : batch.target_utilities.shape[1]] = batch.target_utilities
                array[first : first + len(batch)] = padded.numpy()
                first += len(batch)
                columns = [
                    pa.FixedSizeListArray.from_arrays(pa.array(values.numpy().ravel()), field.type.list_size)
                    for values, field in zip((padded, target), schema, strict=True)
                ]
                writer.write_table(pa.table(columns, schema=schema), row_group_size=BATCH)
        array.flush()

    def from_store(self, epoch: int) -> Iterator[torch.Tensor]:
        if epoch == 0:
            _read_document.cache_clear()
            self.data = self._open()
        assert self.data is not None
        for batch in shuffled_batches(self.data, "train", BATCH, seed=0, epoch=epoch):
            yield batch.context_embeddings

    def from_memmap(self, epoch: int) -> Iterator[torch.Tensor]:
        shape = (self.num_snapshots, self.num_entries, WIDTH)
        array = np.memmap(self.array, np.float32, "r", shape=shape)
        order = np.random.default_rng(epoch).permutation(self.num_snapshots)
        for first in range(0, len(order), BATCH):
            yield torch.from_numpy(array[order[first : first + BATCH]])

    def from_pyarrow(self, epoch: int) -> Iterator[torch.Tensor]:
        found = pads.dataset(self.parquet)
        order = np.random.default_rng(epoch).permutation(-(-self.num_snapshots // BATCH))
        fragments = next(iter(found.get_fragments())).split_by_row_group()
        for group in order:  # whole row groups: single rows would read their whole group each
            table = fragments[int(group)].to_table()
            values = table["embeddings"].combine_chunks().flatten().to_numpy()
            yield torch.tensor(values).view(len(table), self.num_entries, WIDTH)

    def time(self) -> list[dict[str, Any]]:
        rows = []
        readers = {"store": self.from_store, "memmap": self.from_memmap, "pyarrow.dataset": self.from_pyarrow}
        for name, read in readers.items():
            drop_page_cache(self.store_folder, self.array, self.parquet)
            for state, epoch in (("cold", 0), ("warm", 1)):
                started, num_bytes = time.perf_counter(), 0
                for embeddings in read(epoch):
                    num_bytes += embeddings.nbytes
                    embeddings.sum()  # a mapped page is read only when it is used
                took = time.perf_counter() - started
                rows.append({"reader": name, "cache": state, "snapshots_per_s": self.num_snapshots / took,
                             "mb_per_s": num_bytes / took / 1e6, "seconds": took})  # fmt: skip
                print(json.dumps(rows[-1]), flush=True)
        return rows

    def trainer_speed(self, device: str) -> float:
        """Snapshots per second that a training step of the default LensNet consumes."""
        assert self.data is not None
        network = build_network(TrainConfig().network, WIDTH).to(device)
        optimiser = torch.optim.AdamW(network.parameters())
        batch = next(shuffled_batches(self.data, "train", BATCH, seed=0, epoch=0)).to(device)

        def step() -> None:
            optimiser.zero_grad()
            torch.nn.functional.mse_loss(network(batch), batch.target_utilities).backward()
            optimiser.step()
            if device == "cuda":
                torch.cuda.synchronize()

        step()
        return len(batch) / statistics.median(seconds(step) for _ in range(3))


def drop_page_cache(*places: Path) -> None:
    """Drop the files from the page cache, so that the next read comes from the disk."""
    os.sync()
    for place in places:
        for file in [place] if place.is_file() else place.rglob("*"):
            if file.is_file():
                with file.open("rb") as opened:
                    os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(folder: Path, *, quick: bool) -> dict[str, Any]:
    started = time.perf_counter()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cases = (
        [(SMALL, 2, 1), (RECENCY, 2, 1)]
        if quick
        else [(LEVEL0, 5, 1), (LEVEL0, 5, 4), (MIXED, 5, 1), (RECENCY, 5, 1)]
    )
    sizes = []
    for number, (case, num_documents, per_document) in enumerate(cases):
        sizes.append(size_of(folder / f"size{number}", case, num_documents, per_document))
        print(json.dumps(sizes[-1]), flush=True)
    ledger = time_ledger(folder / "ledger", (200, 1000) if quick else (1000, 10_000))
    readers = Readers(folder, SMALL if quick else LEVEL0, 5 if quick else 15)
    reading = readers.time()
    consumed = readers.trainer_speed(device)
    by_way = {(row["reader"], row["cache"]): row["snapshots_per_s"] for row in reading}
    return {
        "sizes": sizes, "ledger": ledger, "reading": reading, "batch_size": BATCH,
        "trainer_snapshots_per_s": consumed,
        "reader_over_trainer": {cache: by_way["store", cache] / consumed for cache in ("cold", "warm")},
        "store_over_memmap": {c: by_way["store", c] / by_way["memmap", c] for c in ("cold", "warm")},
        "store_over_pyarrow": {
            c: by_way["store", c] / by_way["pyarrow.dataset", c] for c in ("cold", "warm")
        },
        "horizon": HORIZON, "cursor_stride": STRIDE, "block_size": TREE.block_size, "width": WIDTH,
        "vocabulary": VOCABULARY, "machine": _machine(device), "quick": quick,
        "seconds": time.perf_counter() - started,
    }  # fmt: skip


def _machine(device: str) -> dict[str, Any]:
    versions = {package: version(package) for package in ("torch", "duckdb", "deltalake", "zarr", "pyarrow")}
    found = {
        "kind": device,
        "cpu": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
    }
    return {**found, **({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {}), **versions}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a minute; kept only with --out")
    parser.add_argument("--out", type=Path, default=None, help="JSON file [benchmarks/results/store-*.json]")
    parser.add_argument(
        "--scratch", type=Path, default=None, help="where to build the stores: the disk to time"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as name:
        result = run(Path(name), quick=arguments.quick)
    if arguments.out or not arguments.quick:
        out = arguments.out or RESULTS / f"store-{result['machine']['kind']}.json"
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
