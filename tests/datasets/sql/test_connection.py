"""Other people's SQL can read the store and nothing else."""

import hashlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.sql.describe import column_comments
from mctrace.datasets.sql.limits import SqlLimits
from mctrace.datasets.sql.registry import TARGETS, VIEWS
from mctrace.datasets.sql.user_queries import run_user_sql, stream_user_sql
from mctrace.datasets.store.parts import write_part
from mctrace.datasets.store.store import create_store, open_store
from mctrace.errors import ConfigError, InputError, StoreError
from tests.datasets.synthetic import add_trajectory, document_arrays, effect


def test_a_query_gives_an_arrow_table(store):
    table = run_user_sql(connect(store.at()), "select count(*) as n from labels;")
    assert table.to_pylist() == [{"n": 21}]


def test_every_view_answers_on_an_empty_store(tmp_path):
    connection = connect(create_store(str(tmp_path / "empty")).at())
    for view in VIEWS:
        assert run_user_sql(connection, f"from {view}").num_rows == 0


def test_neither_environment_nor_secrets_nor_python_can_be_read(store, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-key")
    connection = connect(store.at())
    stolen = pa.table({"stolen": [1]})
    assert stolen.num_rows == 1
    with pytest.raises(InputError):
        run_user_sql(connection, "from stolen")
    for sql in (
        "select getenv('AWS_SECRET_ACCESS_KEY')",
        "from duckdb_secrets()",
        "select * from duckdb_settings()",
    ):
        try:
            answer = run_user_sql(connection, sql)
        except InputError:
            continue
        assert "very-secret-key" not in str(answer.to_pylist())


def test_of_the_stores_own_files_none_is_within_reach_by_name(store):
    connection = connect(store.at())
    with pytest.raises(InputError, match="only queries of the store's views"):
        run_user_sql(connection, f"from '{store.at().table_files('trajectories')[0]}'")
    for file in ("mctrace-store.json", "ledger/_delta_log/00000000000000000000.json"):
        assert store.location.exists(file)
        with pytest.raises(InputError):
            run_user_sql(connection, f"from read_text('{store.location.path(file)}')")


def test_describe_says_what_every_column_of_every_view_means(store):
    connection = connect(store.at())
    for view in (*VIEWS, *(f"{target}_target" for target in TARGETS)):
        rows = run_user_sql(connection, f"describe {view};").to_pylist()
        assert rows
        for row in rows:
            assert row["meaning"], f"{view}.{row['column_name']}"
    assert run_user_sql(connection, "describe select 1 as one").num_rows == 1


def test_no_column_is_explained_that_no_view_has(store):
    connection = connect(store.at())
    names = {
        view: set(connection.sql(f"from {view} limit 0").columns)
        for view in (*VIEWS, *(f"{target}_target" for target in TARGETS))
    }
    for view, column in column_comments():
        assert any(column in found for found in names.values()) if view == "any" else column in names[view]


def test_an_answer_comes_batch_by_batch_and_fails_with_a_clear_message_in_the_middle(store):
    connection = connect(store.at())
    reader = stream_user_sql(connection, "select i from range(1000000) as t(i)")
    assert sum(batch.num_rows for batch in reader) == 1_000_000
    late = "select case when i > 900000 then error('too late') else i end from range(1000000) as t(i)"
    with pytest.raises(InputError, match="too late"):
        stream_user_sql(connection, late).read_all()


WORDS = (" the", "ing", " 42", "\n\n", "  ", "();", "", " naïve", "_x", "Ω1", "\ufffd")


def test_tokens_and_vocabulary(store):
    tables = {"vocabulary": [
        {"tokenizer_hash": "tokenizer", "token_id": i, "text": text}
        for i, text in enumerate(WORDS)
    ]}  # fmt: skip
    part = write_part(store.location, part_id="words", kind="embeddings", run_id="run", tables=tables)
    store.commit([part])
    connection = connect(store.at())
    classes = fetch_rows(connection, "select token_class from vocabulary order by token_id")
    assert [row["token_class"] for row in classes] == [
        "word", "continuation", "number", "newline", "space", "punctuation", "other", "word", "continuation",
        "continuation", "punctuation",
    ]  # fmt: skip
    rows = fetch_rows(connection, "select document_id, tokens from document_tokens order by document_id")
    assert [row["document_id"] for row in rows] == ["a", "b", "c"]
    for seed, row in enumerate(rows):
        assert row["tokens"] == document_arrays(seed)["tokens"].tolist()
    again = fetch_rows(connection, "select count(*) as n from document_tokens where document_id = 'b'")
    assert again == [{"n": 1}]


@pytest.mark.parametrize("name", ["arrays.zarr/tokens/c/0", "documents.parquet"])
def test_tokens_whose_chunk_is_lost_are_refused_and_never_zeros(store, name):
    part = next(c.part for c in store.at().parts if c.part.part_id == "document-b")
    connection = connect(store.at())
    Path(store.location.root, part.folder, name).unlink()
    query = "select count(*) as n from document_tokens"
    message = rf"{part.folder}/{name} is missing or damaged \(mctrace verify [^()]*--skip-damaged; [^()]*\)"
    with pytest.raises(StoreError, match=message) as told:
        fetch_rows(connection, query)
    assert str(told.value).count("--skip-damaged") == 1
    with pytest.raises(InputError, match=message):
        run_user_sql(connection, query)
    whole = store.at().without({part.part_id})
    assert fetch_rows(connect(whole), query) == [{"n": 2}]


def test_an_audit_has_both_readings(store):
    cheap = {"estimator": "windowed", "estimator_window": 64}
    effects = [
        effect("expand", 1, 4, 32, [-0.5] * 8),
        effect("expand", 1, 4, 32, [-0.25] * 4 + [-1.0] * 4, **cheap),
        effect("expand", 1, 5, 32, [-0.3] * 8, **cheap),
    ]
    add_trajectory(store, "audited", "a", effects)
    rows = fetch_rows(connect(store.at()), "from audits order by cursor")
    assert [(row["cursor"], row["windowed_delta_nll"], row["exact_delta_nll"]) for row in rows] == [
        (32, -0.25, -0.5), (36, -1.0, -0.5),
    ]  # fmt: skip
    assert [row["estimation_error"] for row in rows] == [0.25, -0.5]


def test_octaves_add_up_to_the_label(store):
    rows = fetch_rows(
        connect(store.at()),
        "select l.value_of_detail * l.horizon as whole, sum(o.sum_value) as parts, "
        "sum(o.sum_squared_value) as squares, list(o.lag_to order by o.lag_from) as ends "
        "from labels as l join octaves as o using (snapshot_id, action, node_level, node_index) "
        "group by snapshot_id, action, node_level, node_index, whole",
    )
    assert len(rows) == 21
    for row in rows:
        assert row["parts"] == pytest.approx(row["whole"])
        assert row["ends"] == [1, 2, 4]
    assert {row["squares"] for row in rows} == {4.0, 36.0, 1.0, 0.25, 2.25}


def test_chance_is_even_and_the_same_for_ever(store):
    connection = connect(store.at())
    (row,) = fetch_rows(
        connection,
        "select chance('a', 0) as first, avg(chance(i, 1)) as mean, stddev_pop(normal(i, 1)) as spread, "
        "avg(normal(i, 1)) as centre, min(chance(i, 1)) as low, max(chance(i, 1)) as high "
        "from range(4000) as t(i)",
    )
    digest = hashlib.md5(b"a:0").digest()
    assert row["first"] in {
        (int.from_bytes(half, order) >> 11) / 2**53
        for half in (digest[:8], digest[8:])
        for order in ("little", "big")
    }
    assert row["mean"] == pytest.approx(0.5, abs=0.02)
    assert (row["spread"], row["centre"]) == (pytest.approx(1, abs=0.05), pytest.approx(0, abs=0.05))
    assert 0 <= row["low"] < 0.01 < 0.99 < row["high"] < 1


def test_sql_that_does_not_parse_is_shown_where(store):
    with pytest.raises(InputError, match=r"does not parse[\s\S]*selec"):
        run_user_sql(connect(store.at()), "selec 1")


def test_an_unknown_column_is_named(store):
    with pytest.raises(InputError, match="delta_nl"):
        run_user_sql(connect(store.at()), "select delta_nl from labels")


ODD_NAMES = (
    "a*", "*", "what?", "[ab]", "a{b,c}", "a b", "it's", '"quoted"', "Ω naïve 名", "year=2026", "~", "100%",
    "a;b",
)  # fmt: skip


def test_a_store_may_have_any_name(store, tmp_path):
    """No name is a pattern: beside each stand stores that a pattern would read too."""
    root = store.location.root
    names = (*ODD_NAMES, "a", "ab", "b", "what!", "a b c")
    for name in names:
        shutil.copytree(root, tmp_path / "named" / name / "store")
    for name in ODD_NAMES:
        connection = connect(open_store(str(tmp_path / "named" / name / "store")).at())
        assert run_user_sql(connection, "select count(*) as n from labels").to_pylist() == [{"n": 21}], name
        assert "year" not in run_user_sql(connection, "from stored_trajectories limit 1").column_names


def test_a_statement_has_so_many_seconds_and_the_connection_goes_on(store):
    connection = connect(store.at())
    slow = "select count(*) from range(10000000000) as a, range(1000) as b where hash(a.range) = b.range"
    started = time.monotonic()
    with pytest.raises(InputError, match=r"longer than 0.3 s: .*--timeout") as told:
        run_user_sql(connection, slow, timeout_seconds=0.3)
    assert "\n" not in str(told.value)
    assert time.monotonic() - started < 30
    assert run_user_sql(connection, "select 1 as one", timeout_seconds=30).to_pylist() == [{"one": 1}]


def test_the_time_of_whoever_reads_the_answer_does_not_count(store):
    reader = stream_user_sql(connect(store.at()), "from range(300000)", 100_000, timeout_seconds=1.5)
    for batch in reader:
        assert batch.num_rows
        time.sleep(0.8)


BIG = (
    "select count(*) from "
    "(select hash(i)::varchar || repeat('x', 80) as s from range(1500000) as t(i) order by s)"
)


def test_memory_is_limited_and_what_does_not_fit_is_spilled_and_removed(store, tmp_path):
    (tmp_path / "spill").mkdir()
    limits = SqlLimits(memory="60MB", spill="1MB", spill_folder=str(tmp_path / "spill"))
    with connect(store.at(), limits=limits) as connection:
        with pytest.raises(InputError, match=r"more memory than it may take: .*sql\.memory") as told:
            run_user_sql(connection, BIG)
        assert "\n" not in str(told.value)
    limits = SqlLimits(memory="60MB", spill_folder=str(tmp_path / "spill"))
    with connect(store.at(), limits=limits) as connection:
        assert run_user_sql(connection, BIG).num_rows == 1
        (scratch,) = (tmp_path / "spill").iterdir()
        assert scratch.stat().st_mode & 0o077 == 0
        with pytest.raises(InputError, match="only queries"):
            run_user_sql(connection, f"with a as (copy (select 1) to '{scratch}/0/x') from a")
    assert not [path for path in scratch.rglob("*") if path.is_file()]


def test_a_process_leaves_no_scratch_folder(store, tmp_path):
    code = (
        "import sys; from mctrace.datasets.sql.connection import connect; "
        "from mctrace.datasets.store.store import open_store; "
        "from mctrace.datasets.sql.limits import SqlLimits; "
        "connect(open_store(sys.argv[1]).at(), limits=SqlLimits(memory='60MB', spill_folder=sys.argv[2]))"
        ".sql(sys.argv[3]).fetchall()"
    )
    folder = tmp_path / "spill"
    folder.mkdir()
    subprocess.run([sys.executable, "-c", code, store.location.uri, str(folder), BIG], check=True)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"memory": "much"}, "sql.memory = 'much'"), ({"spill": "-1GB"}, "sql.spill"),
        ({"timeout_seconds": -1.0}, "sql.timeout_seconds"),
        ({"timeout_seconds": float("nan")}, "sql.timeout_seconds"),
        ({"spill_folder": "/no/such/folder"}, "no such folder"),
    ],
)  # fmt: skip
def test_limits_are_checked(limits, message):
    with pytest.raises(ConfigError, match=message):
        SqlLimits(**limits)
