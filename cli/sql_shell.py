"""Interactive shell of `mctrace sql`: statements that end in a semicolon, history, completion.

Statements run in the same sandbox as elsewhere, and so do the questions that ship.
Ctrl-C stops a query, Ctrl-D leaves.
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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

from mctrace.analysis.questions.catalogue import read_question
from mctrace.cli.display.answer_table import print_answer
from mctrace.cli.sql_query import print_questions
from mctrace.cli.sql_variables import parse_variables
from mctrace.datasets.sql.connection import connect
from mctrace.datasets.sql.limits import SqlLimits
from mctrace.datasets.sql.registry import MACROS, TARGETS, VIEWS
from mctrace.datasets.sql.user_queries import run_user_sql
from mctrace.datasets.store.store import StoreVersion
from mctrace.errors import InputError, MctraceError

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
"""first characters of commands, which are no SQL; the second is that of other shells"""

_HELP = """\
End a statement with ; to run it. Tab completes, Ctrl-R searches the history, Ctrl-C stops, Ctrl-D leaves.
  show tables;      list views and macros      describe labels;   meaning of its columns
  .questions        list questions that ship   .ask NAME          ask one of them
  .set name=value   set a variable, which SQL reads as getvariable('name')
  \\x                a line per column instead of a table, and back
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
    """Run statements until the end of input; a mistake is shown, and the next statement awaited.

    `variables` are assignments as `.set` takes them; raises InputError for any other text. A statement may
    run for `timeout_seconds`; 0: without limit.
    """
    with connect(version, limits=limits) as connection:
        _set(connection, variables)
        shell = _Shell(connection, console, timeout_seconds)
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
                shell.answer(text)


@dataclass
class _Shell:
    """One session: the connection, with the variables set on it, and the layout of answers."""

    connection: duckdb.DuckDBPyConnection
    console: Console
    timeout_seconds: float
    as_records: bool = False

    def answer(self, text: str) -> None:
        """Run a statement or a command; a mistake is shown."""
        try:
            if text.startswith(_COMMANDS):
                self._command(text)
            else:
                self._ask(text)
        except MctraceError as error:
            self.console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        except KeyboardInterrupt:
            self.console.print("stopped", style="red")

    def _ask(self, sql: str) -> None:
        answer = run_user_sql(self.connection, sql, timeout_seconds=self.timeout_seconds)
        print_answer(answer, self.console, as_records=self.as_records, hint="\\x")

    def _command(self, text: str) -> None:
        name, _, rest = text.rstrip(";").partition(" ")
        if name == "\\x":
            self.as_records = not self.as_records
            self.console.print("a line per column" if self.as_records else "tables", highlight=False)
        elif name.startswith("\\"):
            raise InputError(f"no command {name}: commands begin with a dot, like .help, but for \\x")
        elif name == ".help":
            self.console.print(_HELP, markup=False, highlight=False)
        elif name == ".questions":
            print_questions(self.console)
        elif name == ".ask":
            self._ask(read_question(rest.strip()))
        elif name == ".set":
            _set(self.connection, [rest.strip()], ".set")
        else:
            raise InputError(f"no command {name}: .help, .questions, .ask NAME, .set name=value, \\x, .quit")


def _set(connection: duckdb.DuckDBPyConnection, assignments: Sequence[str], written: str = "--var") -> None:
    for variable, value in parse_variables(assignments, written).items():
        connection.execute(f"set variable {variable} = $1", [value])


def _history() -> History:
    """History in the user's state folder; in memory where that cannot be written."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    file = Path(home) / "mctrace" / "sql_history"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(file))


def _keys() -> KeyBindings:
    """Key bindings: Enter runs a finished statement, and begins a new line in any other."""
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
    """True when it ends in a semicolon outside quotes and comments; comments may follow."""
    tokens = [start for start, kind in duckdb.tokenize(sql) if kind.name != "comment"]
    return bool(tokens) and sql.encode()[tokens[-1] :].startswith(b";")


class _Completer(Completer):
    """Completion of keywords, views, their columns and macros, after the first letter."""

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
