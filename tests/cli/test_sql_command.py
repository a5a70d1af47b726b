"""`mctrace sql` and `mctrace derive`: arguments, files, pipes and the shell."""

import csv
import io
import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from prompt_toolkit import PromptSession
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console

from mctrace.cli.sql_shell import _Completer, _is_finished, run_shell
from mctrace.datasets.sql.connection import connect
from mctrace.datasets.store.store import Store
from tests.datasets.synthetic import synthetic_store

OWN_TERMINAL = (
    "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    # Tests that run in the background of a shell inherit that Ctrl-C is ignored.
    "signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
)
COUNT = "select action, count(*) as n from labels group by all order by all"


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return synthetic_store(tmp_path_factory.mktemp("asked"))


@pytest.fixture
def run(store, tmp_path, monkeypatch, call_mctrace):
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, stdin: str | None = None) -> tuple[int, str, str]:
        if stdin is not None:
            monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        return call_mctrace(arguments[0], "--store", store.location.uri, *arguments[1:])

    return run


def test_a_table_says_how_many_rows(run):
    code, out, _ = run("sql", COUNT)
    assert code == 0
    assert "collapse" in out
    assert "2 rows" in out


def test_formats_are_printed(run):
    rows = [["action", "n"], ["collapse", "9"], ["expand", "12"]]
    assert list(csv.reader(run("sql", "--format", "csv", COUNT)[1].splitlines())) == rows
    # Lines as tail, cut and while read take them.
    assert run("sql", "--format", "csv", COUNT)[1] == "".join(",".join(row) + "\n" for row in rows)
    assert json.loads(run("sql", "--format", "json", COUNT)[1]) == [
        {"action": "collapse", "n": 9}, {"action": "expand", "n": 12},
    ]  # fmt: skip
    assert json.loads(run("sql", "--format", "json", "from labels where false")[1]) == []


def test_json_spells_what_json_can(run):
    code, out, _ = run(
        "sql", "--format", "json", "select 'nan'::double as x, 1 as x, [1.5, 'inf'::double] as l"
    )
    assert code == 0
    assert json.loads(out) == [{"x": None, "x_1": 1, "l": [1.5, None]}]


HOSTILE = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "plain", "a=b", "", "-")


def test_texts_that_a_spreadsheet_would_run_are_neutralised_in_csv_alone(run, tmp_path):
    rows = ", ".join(f"({i}, '{text}', -{i}.5)" for i, text in enumerate(HOSTILE))
    query = f'select text, number as "=number" from (values {rows}) as t(i, text, number) order by i'
    file = tmp_path / "answer.csv"
    run("sql", query, "--out", str(file))
    out = file.read_bytes().decode()
    (names, *found) = csv.reader(io.StringIO(out, newline=""))
    assert names == ["text", "'=number"]
    assert [text for text, _ in found] == [
        "'=1+1", "'+1", "'-1", "'@SUM(A1)", "'\t=1", "'\r=1", "plain", "a=b", "", "'-",
    ]  # fmt: skip
    assert [float(number) for _, number in found] == [-i - 0.5 for i in range(len(HOSTILE))]
    assert [row["text"] for row in json.loads(run("sql", "--format", "json", query)[1])] == list(HOSTILE)
    assert "'=1+1,-0.5" in run("sql", "--format", "csv", query)[1]
    run("sql", query, "--out", str(tmp_path / "answer.parquet"))
    assert pq.read_table(tmp_path / "answer.parquet")["text"].to_pylist() == list(HOSTILE)


SLOW = "select count(*) from range(10000000000) as a, range(1000) as b where hash(a.range) = b.range"


def test_a_query_in_a_script_has_so_many_seconds(run):
    code, _, err = run("sql", SLOW, "--timeout", "0.5")
    assert code == 1
    assert "longer than 0.5 s" in err
    assert err.count("\n") == 1
    assert "longer than 0.25 s" in run("sql", SLOW, "--set", "sql.timeout_seconds=0.25")[2]
    assert run("sql", "select 1 as one", "--timeout", "0")[0] == 0


def test_too_little_memory_is_one_line(run):
    query = "select list(hash(i)::varchar || repeat('x', 100)) as l from range(2000000) as t(i)"
    code, _, err = run("sql", query, "--set", "sql.memory=60MB", "--set", "sql.spill=1MB")
    assert code == 1
    assert "sql.memory" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
def test_an_answer_is_written_to_a_file_whole(run, tmp_path, ending):
    file = tmp_path / f"answer.{ending}"
    code, out, _ = run("sql", COUNT, "--out", str(file))
    assert (code, "2 rows" in out) == (0, True)
    if ending == "parquet":
        assert pq.read_table(file).to_pylist()[1] == {"action": "expand", "n": 12}
    else:
        assert "collapse" in file.read_text()
    failing = run("sql", "select error('no') from labels", "--out", str(file))
    assert failing[0] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.name]


def test_mistakes_end_in_one_line(run, tmp_path):
    for arguments, words in (
        (("sql", COUNT, "--out", "answer.xls"), ".csv, .json or .parquet"),
        (("sql", COUNT, "--out", "answer.csv", "--format", "json"), "--format: only for what is printed"),
        (("sql", COUNT, "--out", "none/answer.csv"), "cannot write"),
        (("sql", COUNT, "--file", "q.sql"), "not both"),
        (("sql", "--file", "none.sql"), "cannot read none.sql"),
        (("sql", "--dataset", "none", COUNT), "no dataset 'none'"),
        (("sql", "--var", "z", COUNT), "expected name=value"),
        (("sql", "--var", "z=1", COUNT), "reads no variable 'z'"),
        (("derive", "x", "--recipe", "nothing"), "unknown recipe 'nothing'"),
        (("derive", "x", "--recipe", "significant", "--dataset", "none"), "no dataset 'none'"),
        (("train", "--dataset", "none"), "no dataset 'none'"),
    ):
        code, _, err = run(*arguments)
        assert (code, "Traceback" in err) == (1, False)
        assert words in err


def test_a_query_comes_from_a_file_or_a_pipe(run, tmp_path):
    (tmp_path / "q.sql").write_text(f"-- how many\n{COUNT};\n")
    assert "12" in run("sql", "--file", "q.sql")[1]
    assert "12" in run("sql", "-", stdin=COUNT)[1]
    assert "12" in run("sql", stdin=COUNT)[1]


def test_variables_are_given_by_name(run):
    query = "select min(horizon) as h from labels_at(getvariable('h'))"
    assert json.loads(run("sql", "--format", "json", "--var", "h=2", query)[1]) == [{"h": 2}]


def test_parquet_goes_through_a_pipe(store):
    command = [str(Path(sys.executable).with_name("mctrace")), "sql", "--store", store.location.uri]
    done = subprocess.run([*command, "--format", "parquet", COUNT], capture_output=True, check=True)
    assert pq.read_table(io.BytesIO(done.stdout)).num_rows == 2


def test_a_dataset_is_derived_listed_and_read(run):
    code, out, _ = run("derive", "sure", "--recipe", "significant", "--var", "z=1", "--seed", "4")
    assert code == 0
    assert "made version" in out
    assert "mctrace train --dataset sure" in out
    assert (
        "is there already"
        in run("derive", "sure", "--recipe", "significant", "--var", "z=1", "--seed", "4")[1]
    )
    (row,) = json.loads(
        run("sql", "--format", "json", "--dataset", "sure", "select count(*) as n from labels")[1]
    )
    assert 0 < row["n"] < 21
    log = run("log")[1]
    assert "dataset sure" in log
    assert "recipe significant" in log
    assert "seed 4, z 1" in log
    assert "added 1 dataset" in run("log", "--versions")[1]
    code, _, err = run("derive", "sure", "--recipe", "levels")
    assert (code, "choose another name" in err) == (1, True)


def shell(store: Store, typed: str, variables: Sequence[str] = ()) -> str:
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    with create_pipe_input() as keys:
        keys.send_text(typed)
        session: PromptSession[str] = PromptSession(input=keys, output=DummyOutput())
        run_shell(store.at(), console, session, variables=variables)
    return console.file.getvalue()


def test_the_shell_answers_goes_on_after_a_mistake_and_leaves(store):
    shown = shell(
        store,
        f"{COUNT};\nselec 1;\ndrop view labels;\n.views\n.set h=2\n.nothing\n"
        "select max(horizon) from labels_at(getvariable('h'));\ndescribe labels;\n.quit\n",
    )
    assert "collapse" in shown
    assert "does not parse" in shown
    assert "only queries" in shown
    assert "preference_pairs" in shown
    assert "no command .nothing" in shown
    assert "meaning" in shown
    assert "max(horizon)" in shown


def test_commands_of_other_shells_are_no_sql(store):
    shown = shell(store, "\\d labels\n\\help\n.set\n.quit\n")
    assert "no command \\d: commands begin with a dot, like .help" in shown
    assert ".set '': expected name=value" in shown


@pytest.mark.parametrize(
    ("text", "finished"),
    [
        ("select 1;", True), ("select 1; -- done", True), ("select 1; /* ; */ ", True), ("é;", True),
        ("select 1", False), ("select 'a;", False), ("select $$a;", False), ("select 1 -- ;", False),
        ("select 1 /* ;", False), ("-- a;", False), ("select 'a;' as \"b;\"", False), ("", False),
    ],
)  # fmt: skip
def test_a_statement_is_finished_where_duckdb_says_so(text, finished):
    assert _is_finished(text) is finished


def test_nothing_from_a_document_moves_the_terminal(run, store):
    query = "select chr(27) || '[31mred' || chr(7) || chr(155) || chr(8238) || 'x' as text"
    for shown in (run("sql", query)[1], shell(store, f"{query};\n.quit\n").partition("text")[2]):
        assert r"\x1b[31mred\x07\x9b\u202ex" in shown
        assert not set(shown) & set("\x07\x9b\u202e")


def test_the_shell_ends_with_its_input(store):
    assert "at version" in shell(store, "\x04")


def test_the_shell_takes_variables_and_refuses_what_is_for_one_answer(run, store, monkeypatch):
    keyboard = io.StringIO()
    monkeypatch.setattr(keyboard, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin", keyboard)
    assert "--out: only for a query" in run("sql", "--out", "x.csv")[2]
    assert "--out and --format: only for a query" in run("sql", "--format", "json", "--out", "x.json")[2]
    assert "--var 'h': expected name=value" in run("sql", "--var", "h")[2]
    asked = "select 100 * max(horizon) as h from labels_at(getvariable('h'));\n.quit\n"
    assert "200" in shell(store, asked, variables=["h=2"])


def test_long_answers_are_cut_in_the_shell(store):
    assert "1000 rows, the first 200 shown" in shell(store, "select * from range(1000);\n.quit\n")


def test_completion_knows_views_columns_and_keywords(store):
    completer = _Completer(connect(store.at()))

    def after(text: str) -> set[str]:
        return {c.text for c in completer.get_completions(Document(text), None)}

    assert "labels" in after("select * from lab")
    assert "labels_at(" in after("select * from lab")
    assert "value_of_detail" in after("select VAL")
    assert "select" in after("sel")
    assert after("select ") == set()


def test_in_a_real_terminal_with_history_completion_and_ctrl_c(store, tmp_path, request):
    """A pseudo-terminal: lines of a statement, Tab, Ctrl-C during a long query, the arrow keys, Ctrl-D."""
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "TERM": "xterm"}
    ours, theirs = pty.openpty()
    command = [str(Path(sys.executable).with_name("mctrace")), "sql", "--store", store.location.uri]
    process = subprocess.Popen(
        [sys.executable, "-c", OWN_TERMINAL, *command],
        stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    request.addfinalizer(lambda: (process.kill(), process.wait()))
    seen = ""

    def wait_for(text: str) -> None:
        nonlocal seen
        deadline = time.monotonic() + 60
        while text not in seen:
            assert time.monotonic() < deadline, f"{text!r} did not come; {seen[-2000:]!r}"
            if select.select([ours], [], [], 1)[0]:
                seen += os.read(ours, 65536).decode(errors="replace")
        seen = seen[seen.index(text) + len(text) :]

    def type_(text: str) -> None:
        os.write(ours, text.encode())

    wait_for("mctrace>")
    type_("select count(*) * 2\r")
    type_("from labels;\r")
    wait_for("42")
    wait_for("mctrace>")
    type_("select count(*) from range(10000000000) as a, range(1000) as b where hash(a.range) = b.range;\r")
    time.sleep(1.5)
    type_("\x03")
    wait_for("stopped")
    wait_for("mctrace>")
    type_("select 1234 + 1;\r")
    wait_for("1235")
    wait_for("mctrace>")
    type_("\x1b[A\r")
    wait_for("1235")
    wait_for("mctrace>")
    type_("\\d\r")
    wait_for("commands begin with a dot")
    wait_for("mctrace>")
    type_("select 'half;\r")
    type_("line' as two_lines; -- done\r")
    wait_for("line")
    wait_for("1 row")
    wait_for("mctrace>")
    type_("select horizo\t\x03")  # completed, then given up
    wait_for("mctrace>")
    type_("select 17 * 3 as late;\r")
    wait_for("51")
    wait_for("mctrace>")
    type_("selec;\r")
    wait_for("does not parse")
    wait_for("mctrace>")
    type_("drop view labels;\r")
    wait_for("only queries are run here, not DROP")
    wait_for("mctrace>")
    type_("\x12234 +")  # searched for in the history
    type_("\r\r")
    wait_for("1235")
    wait_for("mctrace>")
    type_("\x04")
    assert process.wait(60) == 0
    os.close(ours)
    assert "select 1234 + 1;" in (tmp_path / "mctrace/sql_history").read_text()
