"""The store in a notebook: one question, four kinds of answer, the same lock."""

from pathlib import Path

import pytest

from mctrace.datasets.sql.notebook import open_traces
from mctrace.errors import InputError, StoreError

QUERY = "select action, count(*) as n from labels group by all order by all"
ANSWER = [{"action": "collapse", "n": 9}, {"action": "expand", "n": 12}]


@pytest.fixture
def traces(store):
    return open_traces(store.location.uri)


def test_arrow_pandas_polars_and_duckdb_say_the_same(traces):
    assert traces.arrow(QUERY).to_pylist() == ANSWER
    assert traces.pandas(QUERY).to_dict("records") == ANSWER
    assert traces.polars(QUERY).to_dicts() == ANSWER
    assert traces.connection.sql(QUERY).fetchall() == [("collapse", 9), ("expand", 12)]


def test_variables_hold_for_one_query(traces):
    query = "select min(horizon) as h from labels_at(getvariable('h'))"
    assert traces.arrow(query, h=2).to_pylist() == [{"h": 2}]
    assert traces.arrow(query).to_pylist() == [{"h": 4}]
    with pytest.raises(InputError, match="no variable 'g'; it reads h"):
        traces.arrow(query, g=2)


def test_the_connection_is_locked(traces, tmp_path):
    for sql in (f"copy (select 1) to '{tmp_path}/x.csv'", "from read_text('/etc/passwd')", "load httpfs",
                "set enable_external_access = true", f"attach '{tmp_path}/x.db'"):  # fmt: skip
        with pytest.raises(Exception, match=r"(?i)disabled|permission|configuration|locked"):
            traces.connection.execute(sql)


def test_answers_come_from_queries_alone(traces):
    part = traces.version.table_files("effects", todays_columns=True)[0]
    before = Path(part).read_bytes()
    for ask in (traces.arrow, traces.pandas, traces.polars):
        with pytest.raises(InputError, match="only queries are run here, not COPY"):
            ask(f"copy (select 1) to '{part}'")
    assert Path(part).read_bytes() == before


def test_versions_and_datasets_that_are_not_there(store):
    with pytest.raises(StoreError, match="version 99"):
        open_traces(store.location.uri, version=99)
    with pytest.raises(InputError, match="no dataset 'nothing'"):
        open_traces(store.location.uri, dataset="nothing")


def test_a_library_that_is_missing_is_named(traces, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "polars", None)
    with pytest.raises(InputError, match="pip install polars"):
        traces.polars(QUERY)
