"""`mctrace sql` and `mctrace derive`: arguments, files, pipes and the shell."""

import csv
import io
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prompt_toolkit import PromptSession
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.cells import cell_len
from rich.console import Console

from mctrace.analysis.questions.catalogue import questions
from mctrace.cli.display.answer_table import print_answer
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


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl", "parquet"])
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
        (("sql", COUNT, "--out", "answer.xls"), ".csv, .json, .jsonl or .parquet"),
        (("sql", COUNT, "--out", "answer.csv", "--format", "json"), "--format json disagree"),
        (("sql", COUNT, "-x", "--format", "json"), "--records: only for a printed table"),
        (("sql", "--question", "nothing"), "unknown question 'nothing': one of additivity_gap"),
        (("sql", COUNT, "--question", "signal"), "not two of them"),
        (("sql", "--questions", "--question", "signal"), "--question: --questions only lists"),
        (("sql", COUNT, "--out", "none/answer.csv"), "cannot write"),
        (("sql", COUNT, "--file", "q.sql"), "not two of them"),
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


def shell(store: Store, typed: str, variables: Sequence[str] = (), width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    with create_pipe_input() as keys:
        keys.send_text(typed)
        session: PromptSession[str] = PromptSession(input=keys, output=DummyOutput())
        run_shell(store.at(), console, session, variables=variables)
    return console.file.getvalue()


def test_the_shell_answers_goes_on_after_a_mistake_and_leaves(store):
    shown = shell(
        store,
        f"{COUNT};\nselec 1;\ndrop view labels;\nshow tables;\n.set h=2\n.nothing\n"
        "select max(horizon) from labels_at(getvariable('h'));\ndescribe labels;\n.quit\n",
    )
    assert "collapse" in shown
    assert "does not parse" in shown
    assert "only queries" in shown
    assert "preference_pairs" in shown
    assert "no command .nothing" in shown
    assert "meaning" in shown
    assert "max(horizon)" in shown


def test_shipped_questions_are_listed_and_asked_by_name(run, store):
    listed = run("sql", "--questions")[1]
    assert listed.count("\n") == len(questions())
    assert "value_by_lag " in listed
    (row, *_) = json.loads(run("sql", "--format", "json", "--question", "splits")[1])
    assert row["split"] == "train"
    shown = shell(store, ".questions\n.ask splits\n.ask nothing\n.quit\n")
    assert "what does each split hold?" in shown
    assert "num_measured_documents" in shown
    assert "unknown question 'nothing'" in shown


@pytest.mark.parametrize("name", questions())
def test_every_shipped_question_is_a_query(run, name):
    assert run("sql", "--question", name, "--format", "csv")[0] == 0


def test_show_tables_lists_views_for_people(run):
    listed = {r["name"]: r["a_row_is"] for r in json.loads(run("sql", "--format", "json", "show tables;")[1])}
    assert listed["runs"] == "collection run"
    assert listed["labels_at(h)"] == listed["labels"]
    assert "priced_target" in listed
    assert not [name for name in listed if name.startswith(("stored_", "empty_"))]
    assert all(listed.values())


def test_json_lines_hold_an_object_a_row(run):
    lines = run("sql", "--format", "jsonl", COUNT)[1].splitlines()
    assert [json.loads(line) for line in lines] == [
        {"action": "collapse", "n": 9}, {"action": "expand", "n": 12},
    ]  # fmt: skip


def test_a_wide_answer_fits_its_terminal(store):
    asked = "select sha256(document_id) as document, * from labels limit 5;\n"
    shown = shell(store, asked + ".quit\n", width=80)
    assert max(map(cell_len, shown.splitlines())) <= 80
    assert "┃ … ┃" in shown
    assert re.search(r"5 rows, \d+ of \d\d columns shown \(\\x shows all\)", shown)
    cut = {line.split("│")[1].strip() for line in shown.splitlines() if line.startswith("│")}
    assert all(re.fullmatch(r"[0-9a-f]{8}…", cell) for cell in cut)


def test_few_wide_rows_and_those_asked_for_are_records(store, run):
    wide = "select md5(document_id) as document, * from labels limit 2;\n"
    shown = shell(store, wide + ".quit\n", width=80)
    assert "── row 2 ──" in shown
    assert re.search(r"document +[0-9a-f]{32}\b", shown)  # in full: there is room
    shown = shell(store, f"\\x\n{COUNT};\n\\x\n{COUNT};\n.quit\n")
    assert shown.count("── row 1 ──") == 1
    assert "┃ action" in shown
    assert re.search(r"── row 2 ──\naction  expand *\nn       12 *\n", run("sql", "-x", COUNT)[1])


def test_a_pipe_gets_every_column_and_every_hash(run):
    out = run("sql", "select * from labels limit 2")[1]
    assert "…" not in out
    assert "value_of_detail" in out
    assert "… shown" not in run("sql", "select * from range(1000)")[1]


def test_a_long_answer_goes_through_the_pager(run, store, monkeypatch):
    paged: list[str] = []
    monkeypatch.setattr("pydoc.pager", paged.append)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("sys.stdout", terminal := Terminal())
    console = Console(width=80, height=25, force_terminal=True, color_system=None)
    print_answer(pa.table({"n": range(30)}), console)
    assert "30 rows" in paged[0]
    print_answer(pa.table({"n": range(3)}), console)
    assert (len(paged), "3 rows" in terminal.getvalue()) == (1, True)


def test_commands_of_other_shells_are_no_sql(store):
    shown = shell(store, "\\d labels\n\\help\n.set\n.quit\n")
    assert "no command \\d: commands begin with a dot, like .help, but for \\x" in shown
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
