"""Other people's SQL can read the store and nothing else."""

import hashlib
from pathlib import Path

import pyarrow as pa
import pytest

from mctrace.datasets.sql.connection import (
    TARGETS,
    VIEWS,
    column_comments,
    connect,
    fetch_rows,
    run_user_sql,
    stream_user_sql,
)
from mctrace.datasets.store.parts import write_part
from mctrace.datasets.store.store import create_store
from mctrace.errors import InputError, StoreError
from tests.datasets.synthetic import add_trajectory, document_arrays, effect


def test_a_query_gives_an_arrow_table(store):
    table = run_user_sql(connect(store.at()), "select count(*) as n from labels;")
    assert table.to_pylist() == [{"n": 21}]


def test_every_view_answers_on_an_empty_store(tmp_path):
    connection = connect(create_store(str(tmp_path / "empty")).at())
    for view in VIEWS:
        assert run_user_sql(connection, f"from {view}").num_rows == 0


ESCAPES = [
    # reading files
    "select * from read_text('/etc/passwd')",
    "select * from read_blob('/etc/passwd')",
    "select * from read_csv('/etc/passwd')",
    "select * from read_csv_auto('/etc/passwd')",
    "select * from read_json('/etc/passwd')",
    "select * from read_parquet('/etc/passwd')",
    "select * from parquet_scan('/tmp/*.parquet')",
    "select * from parquet_metadata('/etc/passwd')",
    "select * from sniff_csv('/etc/passwd')",
    "select * from read_duckdb('/tmp/other.db')",
    "from '/etc/passwd'",
    "from 'https://example.com/data.csv'",
    "from 's3://bucket/data.parquet'",
    "select * from glob('/etc/*')",
    "select (select content from read_text('/etc/passwd'))",
    "with stolen as (from read_text('/etc/passwd')) from stolen",
    "select * from query('from read_text(''/etc/passwd'')')",
    "select * from query_table('/etc/passwd')",
    "select * from delta_scan('/tmp')",
    "select * from sqlite_scan('/tmp/x.db', 't')",
    # writing files
    "copy (select 1) to '/tmp/mctrace-stolen.csv'",
    "copy labels to '/tmp/mctrace-stolen.parquet'",
    "explain analyze copy (select 1) to '/tmp/mctrace-stolen.csv'",
    "explain analyze /* not */ copy (select 1) to '/tmp/mctrace-stolen.csv'",
    "export database '/tmp/mctrace-stolen'",
    "import database '/tmp/mctrace-stolen'",
    # other databases, extensions
    "attach '/tmp/other.db'",
    "attach ':memory:' as other",
    "detach memory",
    "use memory",
    "install httpfs",
    "load httpfs",
    "force install httpfs",
    "update extensions",
    # settings and secrets
    "set enable_external_access = true",
    "set allowed_paths = ['/etc/passwd']",
    "set global lock_configuration = false",
    "reset enable_external_access",
    "set variable budget = 3",
    "pragma database_list",
    "pragma enable_profiling",
    "pragma enable_external_access = true",
    "create secret stolen (type s3, key_id 'x', secret 'y')",
    "create persistent secret stolen (type s3, key_id 'x', secret 'y')",
    "drop secret stolen",
    "call enable_logging()",
    # changing what is there
    "create table mine as select 1",
    "create view mine as select 1",
    "create macro mine() as 1",
    "create or replace view labels as select 1",
    "explain analyze create table mine as select 1",
    "explain analyze drop view labels",
    "insert into empty_effects values (1)",
    "update documents set split = 'train'",
    "delete from effects",
    "drop view labels",
    "alter view labels rename to mine",
    "comment on view labels is 'x'",
    "begin transaction",
    "checkpoint",
    "vacuum",
    "prepare p as select 1",
    "execute p",
    # more than one
    "select 1; select 2",
    "select 1; drop view labels",
    "call pragma_version()",
    "",
    ";",
]


@pytest.mark.parametrize("sql", ESCAPES)
def test_there_is_no_way_out_of_the_store(store, sql):
    connection = connect(store.at())
    with pytest.raises(
        InputError, match=r"only queries are run|expected one SQL|the SQL fails|does not parse"
    ):
        run_user_sql(connection, sql)
    assert run_user_sql(connection, "select count(*) as n from labels").to_pylist() == [{"n": 21}]
    assert not list(Path("/tmp").glob("mctrace-stolen*"))


def test_explain_analyze_cannot_overwrite_the_stores_own_files(store):
    """They are the only files within reach, so writing to them must not be."""
    version = store.at()
    file = Path(version.table_files("effects")[0])
    before = file.read_bytes()
    connection = connect(version)
    for statement in (f"copy (select 1) to '{file}'", f"explain analyze copy (select 1) to '{file}'",
                      f"explain (analyze) copy (select 1) to '{file}' (format parquet)"):  # fmt: skip
        with pytest.raises(InputError):
            run_user_sql(connection, statement)
    assert file.read_bytes() == before


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


def test_of_the_stores_own_files_only_parts_are_within_reach(store):
    connection = connect(store.at())
    assert run_user_sql(connection, f"from '{store.at().table_files('trajectories')[0]}'").num_rows == 1
    for file in ("mctrace-store.json", "ledger/_delta_log/00000000000000000000.json"):
        assert store.location.exists(file)
        with pytest.raises(InputError):
            run_user_sql(connection, f"from read_text('{store.location.path(file)}')")


def test_explaining_a_query_is_a_query(store):
    connection = connect(store.at())
    for explain in ("explain", "-- a comment\nexplain analyze", "EXPLAIN (ANALYZE, FORMAT JSON)"):
        assert run_user_sql(connection, f"{explain} select count(*) from labels").num_rows > 0


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
