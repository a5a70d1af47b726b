"""Sandbox for other people's SQL: a text must be one query that only reads views.

DuckDB says what a text is, never a pattern of ours: its parser gives the kind of the statement and the tree,
and the tree is walked. A `select` is no proof by itself: `with a as (copy … to 'file') from a` is one to
DuckDB. So only known kinds of nodes pass, only relations by name, and only functions without side effects. An
`explain` is never run as written: what it explains has to be such a query, and that is explained anew.

This is the first of two locks; the second is the locked connection (`connection`), which cannot write.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import duckdb

from mctrace.errors import InputError


@dataclass(frozen=True)
class UserQuery:
    """One query as DuckDB reads it."""

    text: str
    """without a final semicolon, so that it can stand between "(\\n" and "\\n)" """
    tree: Mapping[str, Any]
    """DuckDB's own, as its `json_serialize_sql` gives it"""
    explain: str | None = None
    """`explain`, or `analyze` where the query is to be run for it; None where the answer is asked for"""
    explain_format: str | None = None

    @property
    def parts(self) -> Iterator[Mapping[str, Any]]:
        """Every object of the tree."""
        return _parts(self.tree)

    @property
    def functions(self) -> frozenset[str]:
        """Names of all functions and operators in it, in lower case."""
        return frozenset(str(p["function_name"]).lower() for p in self.parts if "function_name" in p)

    @property
    def columns(self) -> frozenset[str]:
        """Unqualified names of all columns in it, in lower case; some functions are written like them."""
        names = (p["column_names"] for p in self.parts if p.get("class") == "COLUMN_REF")
        return frozenset(name[0].lower() for name in names if len(name) == 1)

    @property
    def samples(self) -> bool:
        """Whether it draws a sample in a way of DuckDB's."""
        return any(p.get("sample") is not None for p in self.parts)


def user_query(sql: str) -> UserQuery:
    """The one query in `sql`. Raises InputError when it is anything else, or could do more than read."""
    statements = _statements(sql)
    if len(statements) != 1:
        raise InputError(f"expected one SQL statement, got {len(statements)}")
    if _kind(statements[0]) == "EXPLAIN":
        return _explained(sql)
    return _query(sql, statements[0])


def plain_query(sql: str) -> UserQuery:
    """Like `user_query`, where an answer is needed: no explanation."""
    query = user_query(sql)
    if query.explain:
        raise InputError("only queries are run here, not EXPLAIN: leave it out")
    return query


def check_condition(where: str) -> None:
    """Raises InputError unless `where` is one SQL condition and nothing besides."""
    try:
        query = user_query(f"select 1 where (\n{where}\n)")
    except InputError as error:
        raise InputError(f"expected one SQL condition, got {where!r}: {error}") from error
    tree = dict(query.tree)
    condition = tree.pop("where_clause", None)
    plain = dict(user_query("select 1 where true").tree)
    plain.pop("where_clause")
    if condition is None or tree != plain:
        raise InputError(f"expected one SQL condition, got {where!r}")


def _query(sql: str, statement: duckdb.Statement) -> UserQuery:
    if _kind(statement) != "SELECT":
        raise InputError(f"only queries are run here, not {_kind(statement)}: the store is read-only to SQL")
    text = _without_semicolon(sql)
    try:
        (row,) = _parser().execute("select json_serialize_sql($1)", [text]).fetchall()
        found = json.loads(row[0])
        statements = found.get("statements", [])
    except (duckdb.Error, ValueError, RecursionError) as error:
        raise InputError(f"the SQL cannot be checked: {str(error).strip()}") from error
    if len(statements) != 1:
        raise InputError(f"the SQL cannot be checked: {found.get('error_message', 'it is not one query')}")
    query = UserQuery(text, statements[0]["node"])
    for part in query.parts:
        _refuse_part(part)
    return query


_NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "CTE_NODE", "RECURSIVE_CTE_NODE"}
_RELATIONS = {
    "BASE_TABLE", "SUBQUERY", "JOIN", "TABLE_FUNCTION", "EXPRESSION_LIST", "EMPTY", "PIVOT", "SHOW_REF",
}  # fmt: skip
_SCHEMAS = {"", "main", "temp", "information_schema", "pg_catalog"}
_CATALOGS = {"", "memory", "temp", "system"}

_TABLE_FUNCTIONS = {
    "range", "generate_series", "unnest", "repeat", "repeat_row", "json_each", "json_tree", "summary",
    "duckdb_columns", "duckdb_functions", "duckdb_keywords", "duckdb_tables", "duckdb_types",
    "duckdb_variables", "duckdb_views", "icu_calendar_names", "pg_timezone_names", "pragma_version",
    "test_all_types",
}  # fmt: skip
"""Those of DuckDB's own that read no file, setting or secret and change nothing; ours besides."""

_VOLATILE = {"random", "setseed", "uuid", "uuidv4", "uuidv7", "gen_random_uuid", "error"}
"""Scalar functions that DuckDB says have side effects, and that have none beyond their query."""

_TELLING = {"current_setting", "json_serialize_plan", "getenv", "currval"}
"""Scalar functions without side effects that tell of more than the store: of the environment through
settings, of files through a plan that is bound to them."""

_SYSTEM_VIEWS = {
    "duckdb_columns", "duckdb_constraints", "duckdb_indexes", "duckdb_schemas", "duckdb_tables",
    "duckdb_types", "duckdb_views", "sqlite_master", "sqlite_schema", "columns", "tables", "views",
    "schemata", "pg_tables", "pg_views", "pg_type", "pg_class", "pg_attribute", "pg_namespace", "pg_proc",
}  # fmt: skip
"""Views of DuckDB's own that describe views; others tell of settings and files."""


def _refuse_part(part: Mapping[str, Any]) -> None:
    kind = str(part.get("type", ""))
    if kind.endswith("_NODE") and kind not in _NODES:
        what = kind.removesuffix("_QUERY_NODE").removesuffix("_NODE")
        raise InputError(f"only queries are run here, not {what}: the store is read-only to SQL")
    if "class" not in part and "sample" in part and "alias" in part and kind not in _RELATIONS:
        raise InputError(f"only queries of the store's views are run here, not of {kind}")
    if kind in ("BASE_TABLE", "SHOW_REF"):
        _refuse_relation(part)
    elif kind == "TABLE_FUNCTION":
        name = part["function"].get("function_name", "").lower()
        if name not in _TABLE_FUNCTIONS and name in _known().table_functions:
            raise InputError(
                f"only queries of the store's views are run here: {name}(…) reads or changes something else"
            )
    elif part.get("class") in ("FUNCTION", "WINDOW"):
        name = part["function_name"].lower()
        if name in _TELLING or (name in _known().side_effects and name not in _VOLATILE):
            raise InputError(
                f"only queries of the store's views are run here: {name}(…) does more than compute a value"
            )


def _refuse_relation(part: Mapping[str, Any]) -> None:
    """A name with a dot, a separator or a scheme is a file to DuckDB where no relation has it."""
    name, schema, catalog = (str(part.get(f"{which}_name", "")) for which in ("table", "schema", "catalog"))
    if set(name) & set("./\\:*?[~") or schema.lower() not in _SCHEMAS or catalog.lower() not in _CATALOGS:
        full = ".".join(one for one in (catalog, schema, name) if one)
        raise InputError(
            f"only queries of the store's views are run here: {full!r} is none (show tables lists them)"
        )
    if name.lower() in _known().views - _SYSTEM_VIEWS:
        raise InputError(f"only queries of the store's views are run here: {name} tells of more")


def _parts(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object in the tree."""
    waiting = [tree]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            # The function of a table function is judged as that, its arguments like any.
            of_table = found.get("type") == "TABLE_FUNCTION"
            yield found
            waiting += [
                {**value, "class": "TABLE_FUNCTION"} if of_table and key == "function" else value
                for key, value in found.items()
            ]
        elif isinstance(found, list):
            waiting += found


_MOST_OPTIONS = 24
"""tokens between `explain` and what it explains"""
_FORMATS = ("text", "json", "html", "graphviz", "yaml", "mermaid")


def _explained(sql: str) -> UserQuery:
    """What an `explain` explains: the first rest of it that DuckDB reads as a statement."""
    text = sql.encode()
    tokens = [(start, kind) for start, kind in duckdb.tokenize(sql)]
    spoken = [number for number, (_, kind) in enumerate(tokens) if kind.name != "comment"]
    words: list[str] = []
    for number in spoken[:_MOST_OPTIONS]:
        start = tokens[number][0]
        end = tokens[number + 1][0] if number + 1 < len(tokens) else len(text)
        rest = text[start:].decode(errors="replace")
        if words and (statements := _parsed(rest)):
            if len(statements) != 1:
                break
            query = _query(rest, statements[0])
            return _with_options(query, words)
        words.append(text[start:end].decode(errors="replace").strip().lower())
    raise InputError("only queries are explained: explain [analyze] [(format json)] select …")


def _with_options(query: UserQuery, words: list[str]) -> UserQuery:
    analyze, chosen = False, None
    options = iter(word for word in words[1:] if word not in ("(", ")", ","))
    for option in options:
        if option == "analyze":
            analyze = True
        elif option == "format" and (value := next(options, "").strip("'\"")) in _FORMATS:
            chosen = value
        else:
            raise InputError(f"explain takes analyze and format ({', '.join(_FORMATS)}), not {option!r}")
    return UserQuery(query.text, query.tree, "analyze" if analyze else "explain", chosen)


def _without_semicolon(sql: str) -> str:
    """The text up to the semicolon that ends its one statement."""
    text = sql.encode()
    for start, _ in duckdb.tokenize(sql):
        if text[start : start + 1] == b";":
            return text[:start].decode()
    return sql


def _statements(sql: str) -> list[duckdb.Statement]:
    try:
        return list(_parser().extract_statements(sql))
    except (duckdb.Error, TypeError) as error:  # TypeError: a text that UTF-8 cannot spell
        reason = "it is no valid text" if isinstance(error, TypeError) else str(error).strip()
        raise InputError(f"the SQL does not parse: {reason}") from error


def _parsed(sql: str) -> list[duckdb.Statement]:
    try:
        return _statements(sql)
    except InputError:
        return []


def _kind(statement: duckdb.Statement) -> str:
    try:
        return str(statement.type.name)
    except ValueError:  # DuckDB has statements that its Python enumeration lacks
        return "such a statement"


@dataclass(frozen=True)
class _Known:
    """Names of what DuckDB brings itself."""

    table_functions: frozenset[str]
    side_effects: frozenset[str]
    views: frozenset[str]


@cache
def _parser() -> duckdb.DuckDBPyConnection:
    """A connection that only parses: another one may be in the middle of an answer."""
    connection = duckdb.connect(config={"autoload_known_extensions": "false"})
    connection.execute("set enable_external_access = false")
    return connection


@cache
def _known() -> _Known:
    def names(query: str) -> frozenset[str]:
        return frozenset(name.lower() for (name,) in _parser().execute(query).fetchall())

    return _Known(
        names(
            "select function_name from duckdb_functions() "
            "where function_type in ('table', 'table_macro', 'pragma')"
        ),
        names("select function_name from duckdb_functions() where has_side_effects"),
        names("select view_name from duckdb_views() where internal"),
    )
