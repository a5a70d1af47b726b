"""`mctrace report`: where the file is, and one-line errors that leave none."""

from pathlib import Path

import pytest

from tests.analysis.synthetic import BY_HAND, write_run, write_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("reported") / "store", BY_HAND)


@pytest.fixture
def run(store, tmp_path, monkeypatch, call_mctrace):
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, uri: str = store.location.uri) -> tuple[int, str, str]:
        return call_mctrace("report", "--store", uri, *arguments)

    return run


def test_says_where_the_file_is(run, tmp_path):
    training = write_run(tmp_path)
    code, out, _ = run("--out", "new/report.html", "--run", str(training))
    assert code == 0
    assert out.startswith(f"wrote {tmp_path / 'new/report.html'} (")
    assert run("--version", "0")[0] == 0
    assert "is empty" in Path("report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--run", "nowhere"], "no run folder"),
        (["--out", "."], "is a folder"),
        (["--compare", "1"], "--compare 1 is the version of the report itself"),
        (["--compare", "99"], "version 99"),
    ],
)
def test_mistakes_are_one_line_errors(run, tmp_path, arguments, words):
    code, _, err = run(*arguments)
    assert code == 1
    assert words in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_missing_store_is_named(run, tmp_path):
    assert "no trace store" in run(uri="nowhere")[2]
    assert list(tmp_path.iterdir()) == []
