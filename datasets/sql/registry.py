"""Registry of the SQL that ships: views, macros and targets, read from their folders.

`views/NAME.sql` defines relations. Its line `-- public: a, b` names those that people query; its other
relations are steps towards them. `views/TABLE/NAME.sql` replaces `views/NAME.sql` where a derived dataset
holds rows of TABLE. `targets/NAME.sql` is a query that becomes the view NAME_target. The order of definition
follows from the relations that each text mentions.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path

import duckdb

from mctrace.errors import InputError

_FOLDER = Path(__file__).parent
_CREATED = re.compile(r"^create (view|macro) (\w+)", re.MULTILINE)
_DEFINES_VIEW = re.compile(r"^create view (\w+) as", re.MULTILINE)
"""Views are bound when they are asked: bound one after another, each binds all below it again."""
_ROW = re.compile(r"one row per ([^:.;]+)")
_PUBLIC = re.compile(r"^-- public: (.*)$", re.MULTILINE)

OWN_TARGETS = "targets"
"""Folder beside pipeline.toml in which a user's own NAME.sql is a target called NAME."""


def read_sql(*parts: str) -> str:
    """Text of a file of this package, by its path within it."""
    return _FOLDER.joinpath(*parts).read_text(encoding="utf-8")


def view_files(derived: Collection[str] = ()) -> Mapping[str, Path]:
    """File of each definition by name; `derived` are the tables of which a derived dataset holds rows."""
    folders = [_FOLDER / "views", *(_FOLDER / "views" / table for table in derived)]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.sql"))}


def in_order(texts: Mapping[str, str], defined: Mapping[str, Collection[str]]) -> list[str]:
    """Names of `texts`, each after those whose `defined` relations it mentions.

    Raises graphlib.CycleError where two texts mention each other.
    """
    owner = {relation: name for name, relations in defined.items() for relation in relations}
    needs = {
        name: sorted({owner[word] for word in _words(texts[name]) if word in owner} - {name})
        for name in sorted(texts)
    }
    return list(TopologicalSorter(needs).static_order())


def _words(sql: str) -> set[str]:
    """Names in a text, by DuckDB's own lexer; in quotes as well, since macros take views by name."""
    text = sql.encode()
    tokens = duckdb.tokenize(sql)
    ends = [start for start, _ in tokens[1:]] + [len(text)]
    return {
        text[start:end].decode().strip().strip("'\"")
        for (start, kind), end in zip(tokens, ends, strict=True)
        if kind.name in ("identifier", "keyword", "string_const")
    }


def created(sql: str, *kinds: str) -> list[str]:
    """Relations that a definition creates, in order; `kinds` are view and macro."""
    return [name for kind, name in _CREATED.findall(sql) if kind in kinds]


def public_names(sql: str) -> list[str]:
    """Relations of a definition that people query, as its line `-- public:` lists them."""
    return [name for line in _PUBLIC.findall(sql) for name in line.split(", ")]


def _in_order_of_views(files: Mapping[str, Path]) -> list[str]:
    texts = {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    order = in_order(texts, {name: created(text, "view", "macro") for name, text in texts.items()})
    return [texts[name] for name in order]


def _public(texts: Iterable[str], kind: str) -> tuple[str, ...]:
    """Relations of a kind that people query, by name."""
    return tuple(sorted(name for text in texts for name in public_names(text) if name in created(text, kind)))


def _in_order_of_targets() -> tuple[str, ...]:
    texts = {path.stem: path.read_text(encoding="utf-8") for path in (_FOLDER / "targets").glob("*.sql")}
    return tuple(in_order(texts, {name: [f"{name}_target"] for name in texts}))


_DEFINITIONS = _in_order_of_views(view_files())

VIEWS = _public(_DEFINITIONS, "view")
"""Views that people query; `views/columns.toml` holds the meaning of each column."""

MACROS = _public(_DEFINITIONS, "macro")
"""Views that take an argument."""

TARGETS = _in_order_of_targets()
"""Targets that ship; each is also a view, NAME_target."""


def rows_of_relations() -> Mapping[str, str]:
    """What a row is, by view, macro with parameters, and target, as the comments of their files say."""
    found: dict[str, str] = {}
    for text in _DEFINITIONS:
        comment = " ".join(line.removeprefix("-- ") for line in text.splitlines() if line.startswith("-- "))
        row = _ROW.search(comment)
        for name in public_names(text):
            macro = re.search(rf"^create macro {name}(\([^)]*\))", text, re.MULTILINE)
            found[f"{name}{macro[1]}" if macro else name] = row[1] if row else ""
    targets = {f"{name}_target": f"label with its utility under the target {name}" for name in TARGETS}
    return dict(sorted({**found, **targets}.items()))


def define_views(connection: duckdb.DuckDBPyConnection, derived: Sequence[str] = ()) -> None:
    """Creates views, macros and targets over the tables `stored_...`.

    `derived` are the tables of which a derived dataset holds rows.
    """
    texts = [
        *(_in_order_of_views(view_files(derived)) if derived else _DEFINITIONS),
        *(f"create view {target}_target as {read_sql('targets', f'{target}.sql')}" for target in TARGETS),
        f"create view utility_scale as {read_sql('utility_scale.sql')}",
    ]
    for text in texts:
        connection.execute(_DEFINES_VIEW.sub(r"create view \1 with (defer_binding) as", text))


def target_sql(target: str) -> str:
    """Query of a target: one that ships, targets/NAME.sql in the working folder, or any .sql file.

    Raises InputError where there is none.
    """
    if target in TARGETS:
        return read_sql("targets", f"{target}.sql")
    _, text = own_sql("target", target, OWN_TARGETS, TARGETS)
    return text.strip().rstrip(";")


def own_sql(kind: str, name: str, folder: str, shipped: Sequence[str]) -> tuple[Path, str]:
    """A user's own definition, FOLDER/NAME.sql or any .sql file: the file and its text.

    Raises InputError where there is none, naming the `shipped` ones, or where it cannot be read.
    """
    is_file = name.endswith(".sql")
    named = Path(folder, name if is_file else f"{name}.sql")
    path = next((path for path in (named, Path(name)) if path.suffix == ".sql" and path.is_file()), None)
    if path is None and is_file:
        raise InputError(f"no {kind} {name!r}: there is no such file, here or in {folder}/")
    if path is None:
        raise InputError(
            f"unknown {kind} {name!r}: one of {', '.join(shipped)}, a file {named}, or any other .sql file"
        )
    try:
        return path, path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the {kind} {path} cannot be read: {error}") from error
