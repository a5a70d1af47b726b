"""The ledger alone: what commits, withdrawals and versions do to its list of parts."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mctrace.datasets.store import ledger as ledger_module
from mctrace.datasets.store.ledger import Ledger
from mctrace.datasets.store.ledger_chain import FOLDER
from mctrace.datasets.store.ledger_rows import CommittedPart, file_name, from_parquet, to_parquet
from mctrace.datasets.store.location import Location
from mctrace.datasets.store.parts import Part, PartFile, write_part
from mctrace.errors import StoreError


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    made = Ledger(Location.of(str(tmp_path)))
    made.create()
    return made


def part_of(ledger: Ledger, part_id: str, run_id: str = "run", kind: str = "run") -> Part:
    return write_part(ledger.location, part_id=part_id, kind=kind, run_id=run_id, tables={"runs": []})


def ids(ledger: Ledger, version: int | None = None) -> list[str]:
    return [committed.part.part_id for committed in ledger.parts(version)[1]]


def test_rows_come_back_from_their_file_as_they_were():
    files = (PartFile("a.parquet", 7, "0" * 64), PartFile("arrays.zarr/zarr.json", 0, "1" * 64))
    committed = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    rows = [
        CommittedPart(Part("one", "document", "run", "parts/one", files, {"documents": 2}), committed),
        CommittedPart(Part("two", "run", "run", "parts/two", (), {}, ("one", "none")), committed),
    ]
    assert from_parquet(to_parquet(rows)) == rows
    assert file_name(to_parquet(rows)) != file_name(to_parquet(rows))


def test_a_commit_makes_one_version_and_older_versions_keep_their_list(ledger):
    assert (ledger.version(), ids(ledger)) == (0, [])
    first = ledger.commit([part_of(ledger, "a"), part_of(ledger, "b")])
    ledger.commit([part_of(ledger, "c")])
    assert [part.part_id for part in first] == ["a", "b"]
    assert (ids(ledger, 0), ids(ledger, 1), ids(ledger)) == ([], ["a", "b"], ["a", "b", "c"])


def test_drivers_that_create_at_once_make_one_version(tmp_path):
    at_once = threading.Barrier(4)

    def create(folder: Path) -> int:
        at_once.wait()
        made = Ledger(Location.of(str(folder)))
        made.create()
        return made.version()

    with ThreadPoolExecutor(4) as threads:
        for i in range(10):
            assert list(threads.map(create, [tmp_path / str(i)] * 4)) == [0] * 4


def test_known_parts_and_an_empty_list_make_no_version(ledger):
    ledger.commit([part_of(ledger, "a")])
    assert ledger.commit([part_of(ledger, "a")]) == []
    assert ledger.commit([]) == []
    assert ledger.version() == 1


def test_a_commit_on_a_stale_view_leaves_out_what_another_driver_committed(ledger):
    other = Ledger(ledger.location)
    assert other.version() == 0
    ledger.commit([part_of(ledger, "a")])
    new = other.commit([part_of(ledger, "a"), part_of(ledger, "b")])
    assert [part.part_id for part in new] == ["b"]
    assert ids(ledger) == ids(other) == ["a", "b"]


def test_a_part_whose_file_is_gone_is_not_committed(ledger):
    part = part_of(ledger, "a")
    (Path(ledger.location.root) / part.folder / "runs.parquet").unlink()
    with pytest.raises(StoreError, match=r"runs\.parquet and 0 other files are gone"):
        ledger.commit([part_of(ledger, "b"), part])
    assert (ledger.version(), ids(ledger)) == (0, [])


def test_a_withdrawn_part_stays_in_older_versions_and_among_names_ever_used(ledger):
    kept, gone = ledger.commit([part_of(ledger, "kept"), part_of(ledger, "gone")])
    ledger.withdraw({"gone", "unknown"})
    assert (ids(ledger), ids(ledger, 1)) == (["kept"], ["gone", "kept"])
    assert ledger.folders_ever_named() == {kept.folder, gone.folder}
    ledger.withdraw({"unknown"})
    assert ledger.version() == 2


def test_history_says_which_runs_added_and_withdrew_what(ledger):
    ledger.commit([part_of(ledger, "a", "r1"), part_of(ledger, "b", "r2", "vocabulary")])
    ledger.commit([part_of(ledger, "c", "r1")])
    ledger.withdraw({"a"})
    _, first, second, third = ledger.history()
    assert (first.run_ids, first.added, first.withdrawn) == (("r1", "r2"), {"run": 1, "vocabulary": 1}, {})
    assert (second.run_ids, second.added) == (("r1",), {"run": 1})
    assert (third.run_ids, third.added, third.withdrawn) == ((), {}, {"run": 1})
    assert ledger.versions_by_run() == {"r1": (1, 2), "r2": (1, 1)}


def test_times_are_in_commit_order_though_the_clock_is_put_back(ledger, monkeypatch):
    class Back(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) - timedelta(days=400)

    ledger.commit([part_of(ledger, "a")])
    monkeypatch.setattr(ledger_module, "datetime", Back)
    ledger.commit([part_of(ledger, "b")])
    first, second = ledger.parts()[1]
    assert (first.part.part_id, second.part.part_id) == ("a", "b")
    assert first.committed_at < second.committed_at


def test_a_data_file_with_other_content_than_its_name_says_is_refused(ledger):
    ledger.commit([part_of(ledger, "a")])
    (file,) = (Path(ledger.location.root) / FOLDER).glob("rows-*.parquet")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(StoreError, match=file.name):
        Ledger(ledger.location).parts()


def test_versions_and_folders_without_a_ledger_are_refused_by_name(ledger, tmp_path):
    with pytest.raises(StoreError, match="version 7 cannot be opened; versions are 0 to 0"):
        ledger.parts(7)
    with pytest.raises(StoreError, match="no ledger in it"):
        Ledger(Location.of(str(tmp_path / "nothing"))).version()
