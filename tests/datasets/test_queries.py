"""Other people's SQL can read the store and nothing else."""

import pytest

from mctrace.context.errors import InputError
from mctrace.datasets.queries import VIEWS, connect, run_user_sql
from mctrace.datasets.store import create_store


def test_a_query_gives_an_arrow_table(store):
    table = run_user_sql(connect(store.at()), "select count(*) as n from labels;")
    assert table.to_pylist() == [{"n": 21}]


def test_every_view_answers_on_an_empty_store(tmp_path):
    connection = connect(create_store(str(tmp_path / "empty")).at())
    for view in VIEWS:
        assert run_user_sql(connection, f"from {view}").num_rows == 0


@pytest.mark.parametrize(
    "sql",
    [
        "select * from read_text('/etc/passwd')",
        "select * from read_csv('/etc/passwd')",
        "from '/etc/passwd'",
        "select * from glob('/etc/*')",
        "copy (select 1) to '/tmp/stolen.csv'",
        "copy labels to '/tmp/stolen.parquet'",
        "attach '/tmp/other.db'",
        "install httpfs",
        "load httpfs",
        "set enable_external_access = true",
        "pragma database_list",
        "create table mine as select 1",
        "drop view labels",
        "select 1; select 2",
        "call pragma_version()",
    ],
)
def test_there_is_no_way_out_of_the_store(store, sql):
    connection = connect(store.at())
    with pytest.raises(InputError):
        run_user_sql(connection, sql)
    assert run_user_sql(connection, "select count(*) as n from labels").to_pylist() == [{"n": 21}]


def test_sql_that_does_not_parse_is_shown_where(store):
    with pytest.raises(InputError, match=r"does not parse[\s\S]*selec"):
        run_user_sql(connect(store.at()), "selec 1")


def test_an_unknown_column_is_named(store):
    with pytest.raises(InputError, match="delta_nl"):
        run_user_sql(connect(store.at()), "select delta_nl from labels")
