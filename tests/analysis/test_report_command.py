"""`mctrace report`: one file, written atomically, and one-line errors."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from mctrace.cli import report_command
from mctrace.cli.config import PipelineConfig, StoreConfig
from mctrace.cli.report_command import ReportRequest, write_report
from mctrace.datasets.store.store import Store
from mctrace.errors import InputError, StoreError
from tests.analysis.synthetic import write_run


@pytest.fixture
def config(store: Store) -> PipelineConfig:
    return replace(PipelineConfig(), store=StoreConfig(uri=store.location.uri))


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO())


def test_writes_one_file_and_says_where(config: PipelineConfig, console: Console, tmp_path: Path) -> None:
    out = tmp_path / "new" / "report.html"
    write_report(config, ReportRequest(out, runs=[write_run(tmp_path)]), console)
    assert list(out.parent.iterdir()) == [out]
    assert out.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().startswith(f"wrote {out} (")


def test_reads_the_requested_version(config: PipelineConfig, console: Console, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    write_report(config, ReportRequest(out, version=0), console)
    assert "is empty" in out.read_text(encoding="utf-8")


def test_an_earlier_report_stays_whole_when_writing_fails(
    config: PipelineConfig, console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "report.html"
    out.write_text("earlier")

    def full(self: Path, content: bytes) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report_command.Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"cannot write .*report\.html: No space left on device"):
        write_report(config, ReportRequest(out, version=0), console)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("report.html", "earlier")]


def test_mistakes_are_one_line_errors(config: PipelineConfig, console: Console, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run folder"):
        write_report(config, ReportRequest(tmp_path / "r.html", runs=[tmp_path / "nowhere"]), console)
    with pytest.raises(InputError, match="is a folder"):
        write_report(config, ReportRequest(tmp_path), console)
    nowhere = replace(config, store=StoreConfig(uri=str(tmp_path / "nowhere")))
    with pytest.raises(StoreError, match="no trace store"):
        write_report(nowhere, ReportRequest(tmp_path / "r.html"), console)
    with pytest.raises(InputError, match="--compare 1 is the version of the report itself"):
        write_report(config, ReportRequest(tmp_path / "r.html", compare=1), console)
    with pytest.raises(StoreError, match="version"):
        write_report(config, ReportRequest(tmp_path / "r.html", compare=99), console)
    assert list(tmp_path.iterdir()) == []
