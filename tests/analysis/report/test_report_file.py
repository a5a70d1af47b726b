"""Reports as files: written atomically, refused in one line."""

from pathlib import Path

import pytest

from mctrace.analysis.report import report_file
from mctrace.analysis.report.report import ReportParts
from mctrace.analysis.report.report_file import check_report_paths, write_report
from mctrace.datasets.store.store import Store
from mctrace.errors import InputError
from tests.analysis.synthetic import write_run


def test_writes_one_file(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "new" / "report.html"
    write_report(out, store.at(), ReportParts(runs=[write_run(tmp_path)]))
    assert list(out.parent.iterdir()) == [out]
    assert out.read_text(encoding="utf-8").rstrip().endswith("</html>")


def test_reads_the_requested_version(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    write_report(out, store.at(0), ReportParts())
    assert "is empty" in out.read_text(encoding="utf-8")


def test_an_earlier_report_stays_whole_when_writing_fails(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "report.html"
    out.write_text("earlier")

    def full(self: Path, content: bytes) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report_file.Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"cannot write .*report\.html: No space left on device"):
        write_report(out, store.at(0), ReportParts())
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("report.html", "earlier")]


def test_mistakes_are_one_line_errors(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run folder"):
        check_report_paths(tmp_path / "r.html", [tmp_path / "nowhere"])
    with pytest.raises(InputError, match="holds no training run"):
        check_report_paths(tmp_path / "r.html", [tmp_path])
    with pytest.raises(InputError, match="is a folder"):
        check_report_paths(tmp_path, [])
    with pytest.raises(InputError, match="--compare 1 is the version of the report itself"):
        write_report(tmp_path / "r.html", store.at(), ReportParts(compared=store.at(1)))
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_at_work_is_a_run(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    check_report_paths(tmp_path / "r.html", [tmp_path])
