"""The interactive shell of `mctrace sql`: statements that end in a semicolon, history, completion.

Statements run under the same lock as everywhere. A query can be stopped with Ctrl-C; Ctrl-D leaves.
"""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import duckdb
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import is_searching
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.lexers import PygmentsLexer
from pygments.lexers.sql import SqlLexer
from rich.console import Console

from mctrace.cli.config import PipelineConfig
from mctrace.cli.sql_command import open_queried, print_answer
from mctrace.cli.variables import parse_variables
from mctrace.datasets.sql.connection import connect
from mctrace.datasets.sql.limits import SqlLimits
from mctrace.datasets.sql.registry import MACROS, TARGETS, VIEWS
from mctrace.datasets.sql.user_queries import run_user_sql
from mctrace.datasets.store.store import StoreVersion
from mctrace.errors import InputError, MctraceError

MOST_ROWS = 200
"""Rows of an answer that are shown."""

_KEYWORDS = [
    "select",
    "from",
    "where",
    "group",
    "by",
    "order",
    "having",
    "limit",
    "join",
    "using",
    "on",
    "left",
    "semi",
    "anti",
    "and",
    "or",
    "not",
    "null",
    "is",
    "in",
    "case",
    "when",
    "then",
    "else",
    "end",
    "as",
    "distinct",
    "count",
    "sum",
    "avg",
    "median",
    "min",
    "max",
    "quantile_cont",
    "filter",
    "over",
    "partition",
    "union",
    "all",
    "with",
    "describe",
    "explain",
    "between",
    "like",
    "glob",
    "asc",
    "desc",
    "exclude",
    "replace",
    "unnest",
    "corr",
]

_WORD = re.compile(r"\w+")
_COMMANDS = (".", "\\")
"""Lines that begin so are no SQL; the second is what other shells' commands begin with."""

_HELP = """\
End a statement with ; to run it. Tab completes, Ctrl-R searches the history, Ctrl-C stops, Ctrl-D leaves.
  .views            what can be asked          describe labels;   what its columns mean
  .set name=value   what getvariable('name') reads
  .help  .quit"""


def run_shell(
    version: StoreVersion,
    console: Console,
    session: "PromptSession[str] | None" = None,
    *,
    variables: Sequence[str] = (),
    limits: SqlLimits | None = None,
    timeout_seconds: float = 0,
) -> None:
    """Reads statements until the end of input; a mistake is shown and the next statement awaited.

    `variables` are assignments as `.set` takes them; raises InputError for what is none. A statement may
    work for `timeout_seconds`, or as long as it likes where that is 0.
    """
    with connect(version, limits=limits) as connection:
        _set(connection, variables)
        prompt = session or PromptSession(
            history=_history(), completer=_Completer(connection), lexer=PygmentsLexer(SqlLexer),
            key_bindings=_keys(), multiline=True, prompt_continuation="    ... ", enable_suspend=True,
        )  # fmt: skip
        through = f", dataset {version.dataset}" if version.dataset else ""
        console.print(
            f"{version.location.uri} at version {version.version}{through}; .help says how", highlight=False
        )
        while True:
            try:
                text = prompt.prompt("mctrace> ").strip()
            except KeyboardInterrupt:
                continue
            except EOFError:
                return
            if text.rstrip(";") in (".quit", ".exit", "quit", "exit"):
                return
            if text:
                _answer(connection, text, console, timeout_seconds)


def _answer(
    connection: duckdb.DuckDBPyConnection, text: str, console: Console, timeout_seconds: float
) -> None:
    try:
        if text.startswith(_COMMANDS):
            _command(connection, text, console)
        else:
            answer = run_user_sql(connection, text, timeout_seconds=timeout_seconds)
            print_answer(answer, console, limit=MOST_ROWS)
    except MctraceError as error:
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
    except KeyboardInterrupt:
        console.print("stopped", style="red")


def _command(connection: duckdb.DuckDBPyConnection, text: str, console: Console) -> None:
    name, _, rest = text.rstrip(";").partition(" ")
    if name.startswith("\\"):
        raise InputError(f"no command {name}: commands begin with a dot, like .help")
    if name == ".help":
        console.print(_HELP, markup=False, highlight=False)
    elif name == ".views":
        console.print(", ".join(_relations()), highlight=False)
    elif name == ".set":
        _set(connection, [rest.strip()], ".set")
    else:
        raise InputError(f"no command {name}: .help, .views, .set name=value, .quit")


def _set(connection: duckdb.DuckDBPyConnection, assignments: Sequence[str], written: str = "--var") -> None:
    for variable, value in parse_variables(assignments, written).items():
        connection.execute(f"set variable {variable} = $1", [value])


def _relations() -> list[str]:
    return [*VIEWS, *(f"{name}(…)" for name in MACROS), *(f"{target}_target" for target in TARGETS)]


def _history() -> History:
    """Kept where the system keeps such things; without a place to keep it, only while the shell runs."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    file = Path(home) / "mctrace" / "sql_history"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(file))


def _keys() -> KeyBindings:
    """Enter runs a finished statement and otherwise begins a new line."""
    keys = KeyBindings()

    @keys.add("enter", filter=~is_searching)
    def _(event: KeyPressEvent) -> None:
        text = event.current_buffer.text.strip()
        if not text or text.startswith(_COMMANDS) or text in ("quit", "exit") or _is_finished(text):
            event.current_buffer.validate_and_handle()
        else:
            event.current_buffer.insert_text("\n")

    return keys


def _is_finished(sql: str) -> bool:
    """Whether it ends in a semicolon that is none within quotes or a comment; comments may follow."""
    tokens = [start for start, kind in duckdb.tokenize(sql) if kind.name != "comment"]
    return bool(tokens) and sql.encode()[tokens[-1] :].startswith(b";")


class _Completer(Completer):
    """Keywords, views, their columns and our macros, after the first letter."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        columns = connection.sql(
            "select distinct column_name from duckdb_columns() "
            f"where table_name in {(*VIEWS, *(f'{target}_target' for target in TARGETS))}"
        ).fetchall()
        words = {*_KEYWORDS, *VIEWS, *(f"{name}(" for name in MACROS), *(name for (name,) in columns)}
        self._words = sorted(words | {f"{target}_target" for target in TARGETS})

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        typed = document.get_word_before_cursor(pattern=_WORD).lower()
        if typed:
            yield from (Completion(w, -len(typed)) for w in self._words if w.startswith(typed) and w != typed)


def open_shell(
    config: PipelineConfig,
    version: int | None,
    dataset: str | None,
    variables: Sequence[str],
    console: Console,
    *,
    timeout_seconds: float = 0,
) -> None:
    """An interactive shell over a version, in which `variables` are set."""
    opened = open_queried(config, version, dataset)
    run_shell(opened, console, variables=variables, limits=config.sql, timeout_seconds=timeout_seconds)
