"""Compacting makes a version with the same rows in fewer files, and leaves every earlier version alone."""

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from mctrace.datasets.batches.collate import ordered_batches
from mctrace.datasets.batches.label_reader import open_training_data
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store import parts
from mctrace.datasets.store.store import Store, StoreVersion, open_store
from mctrace.datasets.upkeep.compaction import _merge, compact
from mctrace.datasets.upkeep.sweep import sweep
from mctrace.datasets.upkeep.verify import verify
from mctrace.errors import StoreError
from mctrace.progress import Silent
from tests.datasets.synthetic import EFFECTS, add_document, add_trajectory, effect

ROOT = Path(__file__).parents[3]
TABLES = ("stored_trajectories", "stored_effects", "stored_joint_effects")


def rows_of(version: StoreVersion) -> dict[str, list[dict[str, object]]]:
    connection = connect(version)
    rows = {table: fetch_rows(connection, f"from {table}") for table in TABLES}
    return {**rows, "labels": fetch_rows(connection, "from labels order by all")}


def test_the_same_rows_in_the_same_order_in_fewer_files(store):
    joint = {"trajectory_id": "td", "actions": [], "first_token": 32, "delta_nll": [0.0] * 8, "status": "ok"}
    add_trajectory(store, "td", "a", EFFECTS, joint_effects=[joint])
    before, rows = store.at(), rows_of(store.at())
    assert all(rows.values()), "an empty table would compare nothing"
    documents, made = compact(store, Silent())
    after = store.at()
    assert after.version == before.version + 2
    assert documents.lineage == ("document-a", "document-b", "document-c")
    assert made.lineage == ("ta", "tb", "tc", "td")
    assert len(after.table_files("effects")) == 1
    assert rows_of(after) == rows
    assert rows_of(store.at(before.version)) == rows
    assert list(verify(after, quick=False, progress=Silent())) == []


def test_what_was_compacted_is_neither_measured_nor_compacted_nor_swept_again(store):
    compact(store, Silent())
    version = store.at().version
    assert compact(store, Silent()) == []
    add_trajectory(store, "ta", "a", EFFECTS)
    assert store.at().version == version
    assert {"ta", "tb", "tc"} <= store.at().part_ids
    assert sweep(store) == []


def test_two_compactions_at_once_give_every_row_once(store):
    late = open_store(store.location.uri)
    seen = late.at()
    compact(store, Silent())
    add_trajectory(store, "td", "a", [effect("expand", 2, 0, 32, [0.0] * 8)])
    rows = rows_of(store.at())
    overlapping = [c.part for c in seen.parts if c.part.part_id in ("ta", "tb")]
    late.commit([_merge(seen, overlapping)])
    assert rows_of(store.at()) == rows


@pytest.mark.parametrize(
    ("part_id", "name"), [("tb", "effects.parquet"), ("document-b", "arrays.zarr/gists/lod1/c/0/0")]
)
def test_a_damaged_file_is_never_copied(store, part_id, name):
    part = next(c.part for c in store.at().parts if c.part.part_id == part_id)
    file = Path(store.location.root) / part.folder / name
    content = file.read_bytes()
    file.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
    with pytest.raises(StoreError, match=rf"{name} is .*damaged"):
        compact(store, Silent())


def test_training_batches_are_the_same_from_compacted_documents(store, monkeypatch):
    monkeypatch.setattr(parts, "_CHUNK_BYTES", 64)  # so that documents begin and end inside chunks
    monkeypatch.setattr(parts, "_SHARD_BYTES", 256)
    batches = []
    for _ in range(2):
        data = open_training_data(store.at(), utility_scale=1.0)
        batches.append(next(ordered_batches(data, "validation", 2)))
        compact(store, Silent())
    assert batches[0].context_embeddings.abs().sum() > 0
    for name in ("context_embeddings", "tail_gists", "target_utilities"):
        assert getattr(batches[0], name).equal(getattr(batches[1], name))
    compacted = next(c.part for c in store.at().parts if c.part.kind == "document")
    assert len([file for file in compacted.files if "/gists/lod1/c/" in file.path]) > 1
    assert list(verify(store.at(), quick=False, progress=Silent())) == []


def test_documents_of_different_gists_stay_apart(store):
    add_document(store, "a", "train", 9, gist_hash="other")
    add_document(store, "b", "validation", 9, gist_hash="other")
    made = [part.lineage for part in compact(store, Silent()) if part.kind == "document"]
    assert made == [("document-a", "document-b", "document-c"), ("document-a-other", "document-b-other")]


def test_measurements_that_came_later_are_compacted_too(unpacked_store):
    store = unpacked_store
    query = "from {} order by all"
    before = {
        name: fetch_rows(connect(store.at()), query.format(name)) for name in ("controls", "joint_edits")
    }
    made = compact(store, Silent())
    assert {part.kind for part in made} == {"document", "trajectory", "drops", "joints", "attention"}
    assert before["controls"]
    assert before["joint_edits"]
    for name, rows in before.items():
        assert fetch_rows(connect(store.at()), query.format(name)) == rows
    assert list(verify(store.at(), quick=False, progress=Silent())) == []


@pytest.fixture
def unpacked_store(tmp_path) -> Store:
    with tarfile.open(Path(__file__).parents[2] / "stores/v1/store.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return open_store(str(tmp_path / "store"))


DRIVER = """
import sys
from mctrace.datasets.store.store import open_store
from tests.datasets.synthetic import EFFECTS, add_trajectory
store, name = open_store(sys.argv[1]), sys.argv[2]
for number in range(int(sys.argv[3])):
    add_trajectory(store, f"{name}-{number}", "a", EFFECTS)
"""


@pytest.mark.slow
def test_four_drivers_and_a_compaction_lose_and_repeat_nothing(store):
    uri, num_drivers, each = store.location.uri, 4, 6
    before = len(fetch_rows(connect(store.at()), "from stored_effects"))
    drivers = [
        subprocess.Popen([sys.executable, "-c", DRIVER, uri, f"driver{i}", str(each)], cwd=ROOT)
        for i in range(num_drivers)
    ]
    num_compactions = 0
    while any(driver.poll() is None for driver in drivers):
        num_compactions += bool(compact(open_store(uri), Silent()))
    assert [driver.wait() for driver in drivers] == [0] * num_drivers
    assert num_compactions
    compact(store, Silent())
    version = store.at()
    assert len(version.table_files("effects")) < num_drivers * each
    counts = fetch_rows(
        connect(version),
        "select trajectory_id, count(*) as num from stored_effects "
        "where trajectory_id like 'driver%' group by all",
    )
    assert {row["trajectory_id"] for row in counts} == {
        f"driver{i}-{number}" for i in range(num_drivers) for number in range(each)
    }
    assert {row["num"] for row in counts} == {len(EFFECTS)}
    total = before + num_drivers * each * len(EFFECTS)
    assert len(fetch_rows(connect(version), "from stored_effects")) == total
    assert list(verify(version, quick=False, progress=Silent())) == []
