"""The report: one version of a store, and a training run if there is one, as one page."""

from datetime import datetime
from pathlib import Path

from mctrace.analysis.closed_loop_section import closed_loop_sections
from mctrace.analysis.gist_section import gist_sections
from mctrace.analysis.page import Section, render_page
from mctrace.analysis.run_sections import evaluation_section, training_section
from mctrace.analysis.shipped import run_analysis
from mctrace.analysis.signal_section import signal_section
from mctrace.analysis.store_section import store_section
from mctrace.analysis.target_section import target_section
from mctrace.analysis.value_sections import distance_section, top_section, value_section
from mctrace.datasets.queries import connect
from mctrace.datasets.store import StoreVersion


def report_sections(version: StoreVersion, run: Path | None) -> list[Section]:
    """The chapters of the report in their order. `run` is a training run's folder; what it lacks is said
    where it would stand."""
    connection = connect(version)
    try:
        (horizons,) = run_analysis(connection, "horizons")
        return [
            store_section(connection, horizons),
            signal_section(connection, horizons),
            *gist_sections(connection),
            value_section(connection),
            distance_section(connection),
            target_section(connection),
            training_section(run),
            evaluation_section(run),
            *closed_loop_sections(run),
            top_section(connection),
        ]
    finally:
        connection.close()


def build_report(version: StoreVersion, run: Path | None, written_at: datetime) -> str:
    """The report as HTML text; `run` as in `report_sections`."""
    subtitle = f"{version.location.uri} at version {version.version}, written {written_at:%Y-%m-%d %H:%M %Z}"
    return render_page(
        "What detail is worth: mctrace report", subtitle.rstrip(), report_sections(version, run)
    )
