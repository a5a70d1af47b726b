"""Other people's SQL reads the store's views and nothing else, and writes nowhere."""

import contextlib
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mctrace.datasets.sql.connection import connect
from mctrace.datasets.sql.sandbox import check_condition, plain_query, user_query
from mctrace.datasets.sql.user_queries import run_user_sql
from mctrace.datasets.store.store import Store
from mctrace.errors import InputError
from tests.datasets.sql import jail
from tests.datasets.synthetic import synthetic_store


@pytest.fixture(scope="module")
def jailed(tmp_path_factory) -> Store:
    store = synthetic_store(tmp_path_factory.mktemp("jail"))
    Path(store.location.root).parent.joinpath("secret.csv").write_text(f"{jail.SECRET}\n" * 2)
    return store


@pytest.fixture(scope="module")
def connection(jailed):
    with connect(jailed.at()) as connection:
        yield connection


def test_no_attempt_escapes(jailed):
    assert len(set(jail.attempts(jailed))) >= 250
    assert list(jail.escapes(jailed, jail.attempts(jailed))) == []


def test_every_attempt_is_refused(jailed, connection):
    for statement in jail.attempts(jailed):
        with pytest.raises(InputError) as told:
            run_user_sql(connection, statement)
        assert str(told.value).strip(), statement
    assert run_user_sql(connection, "select count(*) as n from labels").to_pylist() == [{"n": 21}]


def _without_the_first_lock(connection: duckdb.DuckDBPyConnection, statement: str) -> pa.Table:
    try:
        answer = connection.execute(statement)
        return pa.table({"seen": [f"{answer.description} {answer.fetchall()}" if answer else ""]})
    except (duckdb.Error, RuntimeError, OSError) as error:
        raise InputError(str(error)) from error
    finally:
        with contextlib.suppress(duckdb.Error):  # what follows must not fail for an aborted transaction
            connection.execute("rollback")


def test_the_connection_itself_cannot_write_or_read_outside(jailed):
    """Whatever DuckDB is given as it stands: only the second lock is there."""
    outside = Path(jailed.location.root).parent
    before = jail.fingerprint(outside)
    connection = connect(jailed.at())
    for statement in jail.attempts(jailed):
        assert jail.attempt(connection, statement, _without_the_first_lock) is None, statement
        assert jail.fingerprint(outside) == before, statement


def test_the_counter_sees_an_escape(jailed):
    """Else it could count nothing for ever."""
    outside = Path(jailed.location.root).parent
    before = jail.fingerprint(outside)
    (outside / "stolen.csv").write_text("x")
    assert jail.fingerprint(outside) != before
    (outside / "stolen.csv").unlink()
    leak = f"select '{jail.SECRET}' as leaked"
    assert jail.count(jailed, [leak, "select 1"]) == (2, 1)
    assert jail.attempt(duckdb.connect(), f"from '{outside}/secret.csv'", _without_the_first_lock)


QUERIES = [
    "select 1 as one",
    "(select 1)",
    "from labels",
    "values (1)",
    "with a as (select 1) from a",
    "table labels",
]
FORBIDDEN = [
    "copy (select 1) to '{new}'", "copy labels to '{part}' (format parquet)",
    "with a as (copy (select 1) to '{part}') from a",
    "drop view labels", "create table x as select 1", "from read_text('{secret}')", "from '{secret}'",
    "set threads = 1",
    "select write_log('x')", "attach '{new}.db'", "pragma version",
]  # fmt: skip

_blank = st.sampled_from([" ", "\n", "\t", "\r\n", "\f", "\v", "\u00a0", "\u2003", "\ufeff", "\0"])
_comment = st.recursive(
    st.sampled_from(
        ["/**/", "/* x */", "-- x\n", "/* -- */", "/* ' */", '/* " */', "/*;*/", "/* $$ */", "--*/\n"]
    ),
    lambda inner: inner.map(lambda text: f"/* {text} */"),
    max_leaves=3,
)
_quoted = st.sampled_from(
    ["$$ /* $$", "$a$ -- $a$", "'/*'", "'--'", "''", "e'\\''", '"/*"', "'explain'", "$$'$$"]
)
_space = st.lists(st.one_of(_blank, _comment), min_size=1, max_size=3).map("".join)
_options = st.sampled_from([
    "", "analyze", "(analyze)", "(format json)", "(analyze, format json)", "(verbose)",
    "( analyze , analyze )",
    "(analyze true)", "(analyze false)", "(format $$text$$)", "((analyze))", "()", "(select 1)",
    "(analyze /*) select 1 --*/)",
]).flatmap(lambda options: _space.map(lambda space: options.replace(" ", space)))  # fmt: skip


@st.composite
def _statements(draw: st.DrawFn) -> str:
    """A statement, wrapped and glued in ways on which a lexer and a parser could differ."""
    statement = draw(st.sampled_from(FORBIDDEN + QUERIES))
    for _ in range(draw(st.integers(0, 3))):
        space = draw(_space)
        wrap = draw(
            st.sampled_from([
                "{s}{space}", "{space}{s}", "({s})", "explain{space}{options}{space}{s}",
                "{s};{space}{other}",
                "{other}{space}{s}", "select{space}{quoted}, 1{space}{s}", "with a as ({s}) from a",
                "select * from ({s}) as t", "explain{space}{s}", "{quoted}{s}",
                "{s}{space}union all{space}{other}",
                "from labels where action in ({s})", "/*{s}*/{other}", "--{s}\n{other}", "{s}--{other}",
                "describe {s}",
            ])
        )  # fmt: skip
        pieces = {
            "s": statement, "space": space, "options": draw(_options), "quoted": draw(_quoted),
            "other": draw(st.sampled_from(QUERIES + FORBIDDEN)),
        }  # fmt: skip
        for name in pieces:
            wrap = wrap.replace("{" + name + "}", f"\x01{name}\x02")
        for name, piece in pieces.items():
            wrap = wrap.replace(f"\x01{name}\x02", piece)
        statement = wrap
    return statement


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=_statements())
def test_no_grammar_of_comments_quotes_and_explains_escapes(jailed, connection, text):
    outside = Path(jailed.location.root).parent
    for name, path in {"new": outside / "stolen.csv", "secret": outside / "secret.csv"}.items():
        text = text.replace("{" + name + "}", str(path))
    text = text.replace("{part}", jailed.at().table_files("effects")[0])
    assert list(jail.escapes(jailed, [text], connection)) == []


@settings(max_examples=300, deadline=None)
@given(text=_statements())
def test_what_passes_is_one_select_to_duckdb(text):
    try:
        query = user_query(text)
    except InputError:
        return
    (statement,) = duckdb.extract_statements(query.text)
    assert statement.type.name == "SELECT"
    # Where it stands in a larger statement it is still one, and cannot end it.
    (statement,) = duckdb.extract_statements(f"select * from (\n{query.text}\n) as t")
    assert statement.type.name == "SELECT"


@pytest.mark.parametrize(
    "prefix", ["", "explain ", "explain analyze ", "explain (analyze, format json) ", "/* é /* */ */ "]
)
@pytest.mark.parametrize(
    "query", [*QUERIES, "select 'a;b' as c; -- d", "select $$x;y$$", "from labels_at(3)", "show tables"]
)
def test_queries_and_their_explanations_are_answered(connection, prefix, query):
    assert run_user_sql(connection, prefix + query).num_rows > 0


def test_explaining_gives_a_plan_and_unknown_options_are_named(connection):
    (row,) = run_user_sql(
        connection, "explain (analyze, format json) select count(*) from labels"
    ).to_pylist()
    assert '"timing"' in row["plan"]
    with pytest.raises(InputError, match="explain takes analyze and format"):
        run_user_sql(connection, "explain (format sql) select 1")
    with pytest.raises(InputError, match="leave it out"):
        plain_query("explain select 1")


@pytest.mark.parametrize(
    "where",
    [
        "1) union (select 1", "true) order by (1", "true) limit (1", "true) group by (1",
        "1); drop view labels; select (1",
        "action in (from '/etc/passwd')", "exists (from read_text('/etc/passwd'))",
        "write_log('x') is null", "true --\n) -- (",
    ],
)  # fmt: skip
def test_a_condition_is_a_condition(where):
    with pytest.raises(InputError, match=r"expected one SQL condition"):
        check_condition(where)


def test_conditions_may_ask_anything_of_views():
    for where in (
        "split = 'train'",
        "action = 'expand' -- c",
        "a in (select b from labels)",
        "$$;$$ = ';' or /* ) */ true",
    ):
        check_condition(where)
