"""Two rules: parts are written once; one ledger says which parts exist."""

import json
import os
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mctrace.datasets.batches.collate import make_batch
from mctrace.datasets.batches.label_reader import open_training_data
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store import ledger, ledger_table
from mctrace.datasets.store.parts import write_part
from mctrace.datasets.store.store import create_store, open_store
from mctrace.datasets.upkeep.compaction import compact
from mctrace.datasets.upkeep.sweep import sweep
from mctrace.datasets.upkeep.verify import leave_out_damaged, verify
from mctrace.datasets.upkeep.verify_ledger import verify_ledger
from mctrace.datasets.upkeep.withdrawal import withdraw_damaged
from mctrace.errors import StoreError
from mctrace.progress import Silent
from tests.datasets.synthetic import EFFECTS, add_document, add_trajectory, effect


def root(store) -> Path:
    return Path(store.location.root)


def problems(store, *, quick=False):
    return list(verify(store.at(), quick=quick, progress=Silent()))


def test_a_part_does_not_exist_until_the_ledger_names_it(store):
    before = store.at()
    part = write_part(store.location, part_id="new", kind="run", run_id="r", tables={"runs": []})
    assert store.at().version == before.version
    store.commit([part])
    assert store.at().version == before.version + 1
    assert store.at().part_ids - before.part_ids == {"new"}


def test_committing_a_part_twice_keeps_the_first_and_removes_the_seconds_files(store):
    add_trajectory(store, "twice", "a", [])
    version = store.at().version
    add_trajectory(store, "twice", "a", [])
    assert store.at().version == version
    folders = [p.name for p in root(store).glob("parts/trajectory/tw/twice-*")]
    assert len(folders) == 1
    assert problems(store) == []


def test_a_reader_keeps_the_first_row_where_an_old_ledger_has_two_of_one_part(store):
    rows = [
        write_part(store.location, part_id="raced", kind="run", run_id=run, tables={"runs": []})
        for run in ("first", "second")
    ]
    store.commit([rows[0]])
    twice = [ledger.CommittedPart(rows[1], datetime.now(UTC))]
    store.ledger._transact(lambda table: ledger_table.Change(twice, {}))
    found = [c.part for c in store.at().parts if c.part.part_id == "raced"]
    assert [part.run_id for part in found] == ["first"]


def test_of_two_drivers_that_commit_one_part_at_the_same_moment_one_is_left_out(store, monkeypatch):
    mine, theirs = (
        write_part(store.location, part_id="raced", kind="run", run_id=run, tables={"runs": []})
        for run in ("mine", "theirs")
    )
    other = open_store(str(root(store)))
    look = ledger.refuse_missing

    def look_while_another_commits(location, parts):
        monkeypatch.setattr(ledger, "refuse_missing", look)
        other.commit([theirs])
        look(location, parts)

    monkeypatch.setattr(ledger, "refuse_missing", look_while_another_commits)
    files = set((root(store) / "ledger").glob("*.parquet"))
    assert store.commit([mine]) == []
    rows = [row for row in store.ledger.rows()[1] if row.part.part_id == "raced"]
    assert [row.part.run_id for row in rows] == ["theirs"]
    assert not (root(store) / mine.folder).exists()
    assert len(set((root(store) / "ledger").glob("*.parquet")) - files) == 1
    assert problems(store) == []


def test_commit_times_never_go_back_though_a_clock_does(store, monkeypatch):
    class PutBack(datetime):
        @classmethod
        def now(cls, zone=None):
            return datetime(2001, 1, 1, tzinfo=zone)

    monkeypatch.setattr(ledger, "datetime", PutBack)
    for i in range(3):
        part_id = f"n{2 - i}"
        store.commit(
            [write_part(store.location, part_id=part_id, kind="run", run_id="r", tables={"runs": []})]
        )
    assert [c.part.part_id for c in store.at().parts][-3:] == ["n2", "n1", "n0"]
    times = [c.committed_at for c in store.at().parts]
    assert times == sorted(times)
    assert times[-1] > datetime(2002, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("damage", ["gone", "short"])
def test_a_commit_names_nothing_that_is_not_there(store, damage):
    new = [
        write_part(store.location, part_id=name, kind="run", run_id="r", tables={"runs": []})
        for name in ("whole", "swept")
    ]
    place = root(store) / new[1].folder / "runs.parquet"
    place.unlink() if damage == "gone" else place.write_bytes(place.read_bytes()[:-1])
    version = store.at().version
    with pytest.raises(StoreError, match=r"swept.*runs\.parquet.*nothing was committed"):
        store.commit(new)
    assert store.at().version == version
    assert problems(store) == []


def test_versions_that_do_not_exist_are_refused_with_those_that_do(store):
    newest = store.at().version
    with pytest.raises(StoreError, match=f"versions are 0 to {newest}"):
        store.at(newest + 1)


def test_a_store_of_a_newer_format_is_refused(store):
    (root(store) / "mctrace-store.json").write_text(json.dumps({"format_version": 99}))
    with pytest.raises(StoreError, match=r"format 99.*upgrade"):
        open_store(str(root(store)))


def test_something_that_is_no_store_is_neither_opened_nor_overwritten(tmp_path):
    with pytest.raises(StoreError, match="no trace store"):
        open_store(str(tmp_path / "nothing"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("dear")
    with pytest.raises(StoreError, match="holds other files"):
        create_store(str(tmp_path / "full"))
    assert os.listdir(tmp_path / "full") == ["thesis.tex"]


def test_a_creation_that_was_cut_short_or_raced_is_finished(tmp_path):
    from mctrace.datasets.store.ledger import Ledger
    from mctrace.datasets.store.location import Location

    Ledger(Location.of(str(tmp_path / "begun"))).create()
    assert create_store(str(tmp_path / "begun")).at().version == 0


def test_a_key_in_a_uri_is_refused_and_not_repeated():
    with pytest.raises(StoreError, match="environment") as refusal:
        open_store("s3://someone:secret@bucket/store")
    assert "secret" not in str(refusal.value)


def test_a_damaged_ledger_is_named(store):
    next((root(store) / "ledger").glob("rows-*.parquet")).unlink()
    with pytest.raises(StoreError, match=r"ledger of .* is damaged"):
        open_store(str(root(store))).at()


def test_creating_a_store_that_is_there_keeps_it(store):
    version = store.at().version
    assert create_store(str(root(store))).at().version == version


def test_a_failing_write_leaves_no_part_and_no_scratch(store):
    with pytest.raises(KeyError):
        write_part(store.location, part_id="x", kind="run", run_id="r", tables={"no such table": [{}]})
    assert list(root(store).glob("staging/*")) == []
    assert list(root(store).glob("parts/run/x*/*")) == []


def one_of_each_kind(store) -> list[Path]:
    """A Parquet file of every table and every kind of Zarr file."""
    found: dict[str, Path] = {}
    for committed in store.at().parts:
        for file in committed.part.files:
            place = root(store) / committed.part.folder / file.path
            found.setdefault(f"{committed.part.kind} {file.path}", place)
    return list(found.values())


DAMAGES = {
    "delete": lambda p: p.unlink(),
    "empty": lambda p: p.write_bytes(b""),
    "truncate": lambda p: p.write_bytes(p.read_bytes()[:-1]),
    "flip": lambda p: p.write_bytes(bytes([p.read_bytes()[0] ^ 1]) + p.read_bytes()[1:]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_verify_finds_and_names_every_damaged_file(store, damage):
    assert problems(store) == []
    files = one_of_each_kind(store)
    assert len(files) > 8
    for file in files:
        content = file.read_bytes()
        DAMAGES[damage](file)
        found = problems(store)
        assert [p.place for p in found] == [str(file.relative_to(root(store)))], damage
        file.write_bytes(content)
    assert problems(store) == []


def test_quick_verify_sees_missing_files_and_sizes_but_not_flipped_bytes(store):
    file = one_of_each_kind(store)[0]
    content = file.read_bytes()
    DAMAGES["flip"](file)
    assert problems(store, quick=True) == []
    file.write_bytes(content[:-1])
    assert len(problems(store, quick=True)) == 1


def test_verify_finds_rows_that_point_nowhere(store):
    add_trajectory(store, "orphan", "no such document", [])
    (problem,) = problems(store)
    assert "orphan" in problem.what
    assert "without their document" in problem.what


def test_sweep_removes_only_what_no_row_names_and_is_old(store):
    kept = {c.part.folder for c in store.at().parts}
    lost = write_part(store.location, part_id="lost", kind="run", run_id="r", tables={"runs": []})
    assert sweep(store) == []
    old = time.time() - 7200
    for path in [*(root(store) / lost.folder).rglob("*"), root(store) / lost.folder]:
        os.utime(path, (old, old))
    never_committed = [root(store) / "ledger" / name for name in (".rows-a.parquet-7", "rows-b.parquet")]
    never_committed.append(root(store) / "head" / ".00-ab-7")
    for path in never_committed:
        path.write_bytes(b"")
    assert sweep(store, timedelta(hours=1)) == [lost.folder]
    for path in never_committed:
        os.utime(path, (old, old))
    swept = sweep(store, timedelta(hours=1))
    assert swept == [str(path.relative_to(root(store))) for path in never_committed]
    assert all((root(store) / folder).exists() for folder in kept)
    assert problems(store) == []


LEDGER_DAMAGES = {**DAMAGES, "flip": lambda p: p.write_bytes(flipped(p.read_bytes(), "middle"))}


def flipped(content: bytes, where: str) -> bytes:
    at = {"first": 0, "middle": len(content) // 2, "last": len(content) - 1}[where]
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("damage", LEDGER_DAMAGES)
def test_verify_finds_a_damaged_ledger_file(store, damage):
    version = store.at()
    file = next((root(store) / "ledger").glob("rows-*.parquet"))
    LEDGER_DAMAGES[damage](file)
    found = list(verify(version, quick=False, progress=Silent()))
    assert str(file.relative_to(root(store))) in [problem.place for problem in found]


LOG_DAMAGES = {
    **{name: DAMAGES[name] for name in ("delete", "empty", "truncate", "flip")},
    "another file": lambda p: p.write_text(p.read_text().replace("rows-", "rows-0")),
    "another count": lambda p: p.write_text(p.read_text().replace('numRecords\\": ', 'numRecords\\": 1')),
    "another kind": lambda p: p.write_text(p.read_text().replace('"added":{"', '"added":{"x')),
    "another run": lambda p: p.write_text(p.read_text().replace('"run_ids":"', '"run_ids":"x')),
}


@pytest.mark.parametrize("damage", LOG_DAMAGES)
def test_verify_finds_and_names_a_damaged_log_entry_of_every_version(store, damage):
    version = store.at()
    for file in sorted((root(store) / "ledger/_delta_log").glob("*.json"))[1:]:
        content = file.read_bytes()
        LOG_DAMAGES[damage](file)
        assert damage == "delete" or file.read_bytes() != content
        found = [problem.place for problem in verify(version, quick=True, progress=Silent())]
        assert any(place == str(file.relative_to(root(store))) or "rows-0" in place for place in found)
        file.write_bytes(content)
    assert problems(store) == []


@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_verify_finds_a_flipped_byte_anywhere_in_a_file(store, where):
    for file in one_of_each_kind(store):
        content = file.read_bytes()
        file.write_bytes(flipped(content, where))
        assert [p.place for p in problems(store)] == [str(file.relative_to(root(store)))]
        file.write_bytes(content)


def test_a_damaged_part_can_be_left_out_and_all_else_stays_readable(store):
    before = len(fetch_rows(connect(store.at()), "from labels"))
    damaged = next(c.part for c in store.at().parts if c.part.part_id == "tb")
    file = root(store) / damaged.folder / "effects.parquet"
    file.write_bytes(flipped(file.read_bytes(), "middle"))
    whole, left_out = leave_out_damaged(store.at(), Silent())
    assert [part.part_id for part in left_out] == ["tb"]
    rest = fetch_rows(connect(whole), "from labels")
    assert len(rest) == before * 2 // 3
    assert {row["trajectory_id"] for row in rest} == {"ta", "tc"}


def test_where_a_compacted_part_is_damaged_those_it_was_made_of_are_read_again(store):
    before = fetch_rows(connect(store.at()), "from labels order by all")
    (documents, trajectories) = compact(store, Silent())
    for part, file in ((documents, "arrays.zarr/tokens/c/0"), (trajectories, "effects.parquet")):
        path = root(store) / part.folder / file
        path.write_bytes(flipped(path.read_bytes(), "middle"))
    original = next(c.part for c in store.at().listed if c.part.part_id == "tb")
    (root(store) / original.folder / "trajectories.parquet").unlink()
    whole, left_out = leave_out_damaged(store.at(), Silent())
    assert [part.part_id for part in left_out] == [documents.part_id, trajectories.part_id, "tb"]
    rows = fetch_rows(connect(whole), "from labels order by all")
    assert rows == [row for row in before if row["trajectory_id"] != "tb"]


def test_around_a_damaged_document_the_others_are_trained_on(store):
    document = next(c.part for c in store.at().parts if c.part.part_id == "document-a")
    add_document(store, "d", "train", seed=5)
    add_trajectory(store, "td", "d", EFFECTS)
    (root(store) / document.folder / "arrays.zarr/tokens/c/0").unlink()
    with pytest.raises(StoreError, match="--skip-damaged"):
        open_training_data(store.at())
    whole, _ = leave_out_damaged(store.at(), Silent())
    data = open_training_data(whole)
    assert {s.document_id for s in data.snapshots("train")} == {"d"}
    assert len(make_batch(data, data.snapshots("train"))) == 2
    assert "ta" in {row["trajectory_id"] for row in fetch_rows(connect(whole), "from effects")}


def test_damaged_parts_are_withdrawn_in_a_version_of_their_own(store):
    before = store.at()
    for part_id in ("tb", "run-start"):
        part = next(c.part for c in before.parts if c.part.part_id == part_id)
        (root(store) / part.folder / part.files[0].path).unlink()
    late = open_store(str(root(store)))
    late.at()  # a driver that has read the list before
    found = withdraw_damaged(store, Silent())
    assert [part.part_id for part in found.withdrawn] == ["tb"]
    assert [part.kind for part in found.kept] == ["run"]
    assert before.part_ids - store.at().part_ids == {"tb"}
    assert store.at(before.version).part_ids == before.part_ids
    assert store.ledger.history()[-1].withdrawn == {"trajectory": 1}
    add_trajectory(late, "tb", "b", EFFECTS)
    assert store.at().part_ids == before.part_ids
    again = next(c.part for c in store.at().parts if c.part.part_id == "tb")
    (root(store) / again.folder / again.files[0].path).unlink()
    assert [part.part_id for part in withdraw_damaged(store, Silent()).withdrawn] == ["tb"]
    assert list(verify_ledger(store.ledger, store.at().version)) == []


def test_what_was_withdrawn_is_not_swept_while_older_versions_name_it(store):
    part = next(c.part for c in store.at().parts if c.part.part_id == "tb")
    lost = root(store) / part.folder / "effects.parquet"
    content = lost.read_bytes()
    lost.unlink()
    version = store.at().version
    withdraw_damaged(store, Silent())
    assert sweep(store, timedelta(0)) == []
    lost.write_bytes(content)
    assert list(verify(store.at(version), quick=False, progress=Silent())) == []


def test_everything_can_be_withdrawn_and_nothing_is_withdrawn_from_a_whole_store(store):
    version = store.at().version
    assert withdraw_damaged(store, Silent()).withdrawn == []
    assert store.at().version == version
    for committed in store.at().parts:
        shutil.rmtree(root(store) / committed.part.folder)
    withdraw_damaged(store, Silent())
    assert {c.part.kind for c in store.at().parts} == {"run"}


def test_verify_finds_values_that_cannot_be(store):
    add_trajectory(store, "twisted", "a", [effect("expand", 1, 4, 32, [0.0] * 8, inclusion_probability=0.0)],
                   cursors=(36, 32), baseline_nll=[-5.0] * 4)  # fmt: skip
    found = " ".join(problem.what for problem in problems(store))
    assert "impossible inclusion probability" in found
    assert "cursors out of order" in found
    assert "baseline that is no loss" in found


def test_a_commit_reads_only_what_is_new_and_the_ledger_stays_few_files(store, monkeypatch):
    monkeypatch.setattr(ledger, "_TIDY_FILES", 4)
    other = open_store(str(root(store)))
    for i in range(12):
        writer = (store, other)[i % 2]
        part = write_part(writer.location, part_id=f"n{i}", kind="run", run_id="r", tables={"runs": []})
        versions = writer.at().version
        writer.commit([part])
        assert f"n{i}" in (store, other)[1 - i % 2].at().part_ids
    fresh = open_store(str(root(store)))
    assert len(fresh.ledger.files(fresh.ledger.version())) <= 5
    assert [c.part.part_id for c in fresh.at().parts][-12:] == [f"n{i}" for i in range(12)]
    assert "n11" not in fresh.at(versions).part_ids
    assert sum(sum(record.added.values()) for record in fresh.ledger.history()) == len(fresh.at().parts)
    assert problems(fresh) == []


@pytest.mark.parametrize("written", [-1, 0, "1", 1.0, True, None, [], {}, 99])
def test_a_format_that_no_release_wrote_is_refused(store, written):
    (root(store) / "mctrace-store.json").write_text(json.dumps({"format_version": written}))
    with pytest.raises(StoreError, match=r"mctrace-store.json is damaged: .*format_version|upgrade mctrace"):
        open_store(store.location.root)


@pytest.mark.parametrize("uri", ["", " "])
def test_an_empty_uri_is_no_store(uri):
    with pytest.raises(StoreError, match=r"store\.uri is empty"):
        open_store(uri)
