"""The registry reads every definition from its folder, in an order that works."""

import random
from graphlib import CycleError
from pathlib import Path

import duckdb
import pytest

from mctrace.datasets.sql import registry
from mctrace.datasets.sql.registry import MACROS, TARGETS, VIEWS, created, in_order, public_names, view_files
from mctrace.datasets.sql.token_scan import SCHEMA
from mctrace.datasets.store.schemas import DATASET_COMMITS, TABLES
from mctrace.datasets.store.store import DERIVED_TABLES

FOLDER = Path(registry.__file__).parent


def test_a_text_comes_after_those_whose_relations_it_mentions():
    texts = {
        "a": "create view a as from b_at(1);",
        "b": "create macro b_at(h) as table from query_table('c');",
        "c": "create view c as select 1 as a_column -- a\n;",
    }
    names = list(texts)
    for seed in range(4):
        random.Random(seed).shuffle(names)
        shuffled = {name: texts[name] for name in names}
        defined = {name: created(text, "view", "macro") for name, text in shuffled.items()}
        assert in_order(shuffled, defined) == ["c", "b", "a"]


def test_texts_that_mention_each_other_have_no_order():
    with pytest.raises(CycleError):
        in_order({"a": "from b", "b": "from a"}, {"a": ["a"], "b": ["b"]})


def test_every_public_name_is_created_by_the_file_that_lists_it():
    listed = []
    for path in view_files().values():
        text = path.read_text(encoding="utf-8")
        names = public_names(text)
        assert set(names) <= set(created(text, "view", "macro")), path.name
        listed += names
    assert sorted(listed) == sorted((*VIEWS, *MACROS))


def test_targets_are_the_files_of_their_folder():
    assert sorted(TARGETS) == sorted(path.stem for path in (FOLDER / "targets").glob("*.sql"))


def test_what_a_derived_dataset_replaces_creates_the_same_public_names():
    replacing = {path.parent.name for path in (FOLDER / "views").glob("*/*.sql")}
    assert replacing == set(DERIVED_TABLES)
    stored = view_files()
    for name, path in view_files(DERIVED_TABLES).items():
        public = {*VIEWS, *MACROS}.intersection(created(stored[name].read_text(), "view", "macro"))
        assert public <= set(created(path.read_text(), "view", "macro")), path


@pytest.mark.parametrize("derived", [(), *((table,) for table in DERIVED_TABLES), DERIVED_TABLES])
def test_every_relation_binds_where_definitions_follow_the_order(derived):
    connection = duckdb.connect()
    for name, schema in TABLES.items():
        connection.register(f"stored_{name}", schema.empty_table())
    connection.register("stored_document_tokens", SCHEMA.empty_table())
    connection.register("stored_dataset_commits", DATASET_COMMITS.empty_table())
    registry.define_views(connection, derived)
    for view in (*VIEWS, *(f"{target}_target" for target in TARGETS)):
        assert connection.sql(f"from {view}").fetchall() == []
    table_macros = connection.sql(
        "select distinct function_name from duckdb_functions() where function_type = 'table_macro'"
    )
    of_tables = {name for (name,) in table_macros.fetchall()}
    for macro in MACROS:
        argument = "'value'" if macro == "entry_targets" else "null"
        if macro in of_tables:
            assert connection.sql(f"from {macro}({argument})").fetchall() == []
        else:
            assert connection.sql(f"select {macro}({argument})").fetchall() == [(None,)]
