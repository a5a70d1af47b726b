"""The report on one version of a store, training runs and checkpoints: pages of one HTML file."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

import duckdb

from mctrace.analysis.questions.catalogue import Row, narrowed, run_analysis
from mctrace.analysis.report.chosen_labels import connected, effects_of_labels
from mctrace.analysis.report.formatting import counted
from mctrace.analysis.report.page import KeyFigure, Page, Section, render_pages
from mctrace.analysis.report.sections.checkpoint_comparison import checkpoint_section
from mctrace.analysis.report.sections.closed_loop import closed_loop_sections
from mctrace.analysis.report.sections.collection_run import collection_section
from mctrace.analysis.report.sections.controls import control_sections
from mctrace.analysis.report.sections.gists import gist_sections
from mctrace.analysis.report.sections.scorer_agreement import scorer_section
from mctrace.analysis.report.sections.signal import signal_section
from mctrace.analysis.report.sections.snapshots import snapshot_section
from mctrace.analysis.report.sections.store import store_facts, store_section
from mctrace.analysis.report.sections.targets import target_section
from mctrace.analysis.report.sections.training_run import evaluation_section, training_section
from mctrace.analysis.report.sections.value_by_horizon import horizon_section
from mctrace.analysis.report.sections.value_by_origin import origin_section
from mctrace.analysis.report.sections.value_of_detail import distance_section, top_section, value_section
from mctrace.analysis.report.sections.value_over_time import time_section
from mctrace.analysis.report.sections.version_comparison import version_section
from mctrace.analysis.snapshots.scoring import (
    MOST_RANKED,
    NamedCheckpoint,
    open_checkpoints,
    score_snapshots,
    scorer_agreement,
)
from mctrace.analysis.snapshots.view import SnapshotView, find_snapshots, read_snapshots
from mctrace.datasets.store.heartbeat import last_sign
from mctrace.datasets.store.provenance import Provenance, mixture_in
from mctrace.datasets.store.store import StoreVersion
from mctrace.datasets.upkeep.run_log import state_of
from mctrace.errors import InputError
from mctrace.train.checkpoints.retention import BEST
from mctrace.train.serving.compatibility import check_compatible

NUM_PICKED = 12
"""snapshots shown where none is named"""
MOST_JUDGED = 96
"""snapshots on which checkpoints are compared with measured values"""
MOST_RUNS = 8
"""collection runs with a page of their own, the newest"""


@dataclass(frozen=True)
class ReportParts:
    """Contents of a report besides the store's version."""

    runs: Sequence[Path] = ()
    """training run folders; a missing file is noted where its plot would be"""
    checkpoints: Sequence[Path] = ()
    """LensNets whose scores are shown, besides the runs' own best"""
    compared: StoreVersion | None = None
    """another version of the same store"""
    snapshots: Sequence[str] = ()
    """snapshots to show, by id or its beginning; none: the report picks"""
    where: str = ""
    """SQL condition on the labels that it is about; empty: all"""


@dataclass(frozen=True)
class _Judged:
    """Snapshots with the checkpoints' scores, and the scores' agreement with measured values."""

    scorers: list[NamedCheckpoint]
    snapshots: list[SnapshotView]
    agreement: list[Row]
    judged_on: str


def report_pages(version: StoreVersion, parts: ReportParts) -> list[Page]:
    """Every page in its order: signal against noise first.

    Raises InputError when a checkpoint is none, or was trained on another base model than the labels, a
    snapshot is not in this version, or no label meets the condition.
    """
    with connected(version, parts.where) as connection:
        (horizons,) = run_analysis(connection, "horizons")
        judged = _judge(connection, version, parts)
        keeps_tokens = not (version.dataset or parts.where) and _keeps_tokens(connection)
        runs, splits = _runs(connection, version), run_analysis(connection, "splits")
        return [
            _overview(connection, keeps_tokens, horizons, judged, store_facts(runs, splits, horizons)),
            _values(connection, parts),
            Page("targets", "Targets", [target_section(connection)]),
            Page("snapshots", "Snapshots", [_snapshot_section(connection, version, parts, judged.scorers)]),
            *_comparisons(connection, version, parts, judged),
            Page("store", "Store", [store_section(runs, splits, horizons)]),
            *([] if version.dataset or parts.where else _collection_pages(connection, runs)),
            *(
                Page(
                    f"training-{number}",
                    run.resolve().name,
                    [training_section(run), evaluation_section(run), *closed_loop_sections(run)],
                    group="Training",
                )
                for number, run in enumerate(parts.runs, start=1)
            ),
        ]


def build_report(version: StoreVersion, parts: ReportParts, written_at: datetime) -> str:
    """The report as the text of an HTML file; raises as `report_pages` does."""
    through = f", dataset {version.dataset}" if version.dataset else ""
    through += f", labels where {parts.where}" if parts.where else ""
    subtitle = (
        f"{version.location.uri} at version {version.version}{through}, "
        f"written {written_at:%Y-%m-%d %H:%M %Z}"
    )
    pages = report_pages(version, parts)
    return render_pages("What detail is worth: mctrace report", subtitle.rstrip(), pages)


def _runs(connection: duckdb.DuckDBPyConnection, version: StoreVersion) -> list[Row]:
    """Rows of provenance.sql with the `state` that `mctrace log` shows."""
    return [{**run, "state": _state(run, version)} for run in run_analysis(connection, "provenance")]


def _state(run: Row, version: StoreVersion) -> str:
    sign = None if run["outcome"] else last_sign(version.location, run["run_id"])
    return state_of(run["outcome"], sign)


def _keeps_tokens(connection: duckdb.DuckDBPyConnection) -> bool:
    """False where labels are gradient estimates, which are means over whole horizons."""
    query = "select count(*) from effects where estimator = 'gradient'"
    return not connection.execute(query).fetchall()[0][0]


def _overview(
    connection: duckdb.DuckDBPyConnection,
    keeps_tokens: bool,
    horizons: Row,
    judged: _Judged,
    facts: Sequence[KeyFigure],
) -> Page:
    half = (horizons["shortest_horizon"] or 0) // 2 if keeps_tokens else 0
    trajectories = sorted({one.snapshot_id.partition(":")[0] for one in judged.snapshots})
    with narrowed(connection, "trajectory_id", trajectories) if trajectories else nullcontext():
        ceilings = run_analysis(connection, "rank_stability", half_horizon=half) if half else []
    sections = [replace(signal_section(connection, horizons, keeps_tokens=keeps_tokens), facts=facts)]
    if horizons["num_settings"]:
        scales = {s.name: s.info.utility_scale for s in judged.scorers if not s.info.signed}
        calibration = run_analysis(connection, "scorer_calibration")
        sections.append(scorer_section(judged.agreement, ceilings, judged.judged_on, calibration, scales))
    return Page("signal", "Signal and noise", sections)


def _values(connection: duckdb.DuckDBPyConnection, parts: ReportParts) -> Page:
    with effects_of_labels(connection) if parts.where else nullcontext():
        sections = [
            value_section(connection),
            distance_section(connection),
            horizon_section(connection),
            origin_section(connection),
            time_section(connection),
            *gist_sections(connection),
            *control_sections(connection),
            top_section(connection),
        ]
    return Page("values", "Value of detail", sections)


def _judge(connection: duckdb.DuckDBPyConnection, version: StoreVersion, parts: ReportParts) -> _Judged:
    scorers, left_out = _fitting_scorers(connection, version, parts)
    if not scorers:
        judged_on = (
            f"Judged on the labels of this version, of at most {MOST_RANKED} trajectories, drawn by a hash "
            "of their ids; --run and --checkpoint add LensNets."
        )
        return _Judged([], [], scorer_agreement(connection, []), judged_on + left_out)
    rows = [row for row in run_analysis(connection, "held_out") if _all_fit(scorers, Provenance.of(row))]
    ids = [row["snapshot_id"] for row in rows[:MOST_JUDGED]]
    snapshots = score_snapshots(version, read_snapshots(connection, version, ids, with_text=False), scorers)
    of_all = f" of {len(rows):,}" if len(ids) < len(rows) else ""
    judged_on = (
        f"Judged on {counted(len(ids), 'snapshot')}{of_all} of the {rows[0]['split'] or 'only'} split."
    )
    kinds = list(dict.fromkeys(map(Provenance.of, rows)))
    if mixture := mixture_in(asdict(Provenance.of_all(kinds))):
        judged_on += f" They differ in {' and '.join(mixture)}."
    return _Judged(scorers, snapshots, scorer_agreement(connection, snapshots), judged_on + left_out)


def _fitting_scorers(
    connection: duckdb.DuckDBPyConnection, version: StoreVersion, parts: ReportParts
) -> tuple[list[NamedCheckpoint], str]:
    """Checkpoints that all learned from one kind of this version's labels, and a sentence on those left out.

    Raises InputError for a checkpoint named by the user that would be left out.
    """
    of_runs = [(run / BEST).resolve() for run in parts.runs if (run / BEST).is_dir()]
    named = [folder.resolve() for folder in parts.checkpoints]
    scorers = open_checkpoints(list(dict.fromkeys([*named, *of_runs])))
    kinds = list(dict.fromkeys(map(Provenance.of, run_analysis(connection, "held_out"))))
    at = f"{version.location.uri} at version {version.version}"
    if named and not kinds:
        raise InputError(f"{at} has no labels to judge {named[0]} on: run 'mctrace collect'")
    fitting: list[NamedCheckpoint] = []
    others: list[NamedCheckpoint] = []
    for scorer in scorers:
        shared = [kind for kind in kinds if scorer.fits(kind)]
        if not shared and scorer.folder in named:
            beside = f" that {fitting[0].name} learned from" if fitting else ""
            check_compatible(scorer.info, scorer.folder, kinds, f"the labels of {at}{beside} have")
        if shared:
            fitting.append(scorer)
            kinds = shared
        else:
            others.append(scorer)
    names = ", ".join(scorer.name for scorer in others)
    left_out = f" Left out, since they were trained on other labels than these: {names}." if names else ""
    return fitting, left_out


def _all_fit(scorers: Sequence[NamedCheckpoint], kind: Provenance) -> bool:
    return all(scorer.fits(kind) for scorer in scorers)


def _snapshot_section(
    connection: duckdb.DuckDBPyConnection,
    version: StoreVersion,
    parts: ReportParts,
    scorers: list[NamedCheckpoint],
) -> Section:
    ids = [found for name in parts.snapshots for found in find_snapshots(connection, name)]
    if not ids:
        ids = [row["snapshot_id"] for row in run_analysis(connection, "snapshot_choice")[:NUM_PICKED]]
    snapshots = read_snapshots(connection, version, list(dict.fromkeys(ids)), with_text=True)
    fitting = [one for one in snapshots if _all_fit(scorers, one.provenance)]
    by_id = {one.snapshot_id: one for one in score_snapshots(version, fitting, scorers)}
    return snapshot_section(
        [by_id.get(one.snapshot_id, one) for one in snapshots], chosen=bool(parts.snapshots)
    )


def _comparisons(
    connection: duckdb.DuckDBPyConnection, version: StoreVersion, parts: ReportParts, judged: _Judged
) -> list[Page]:
    sections = []
    if parts.compared is not None:
        both = sorted((version, parts.compared), key=lambda one: one.version)
        with connected(parts.compared, parts.where) as other:
            connections = [connection if one is version else other for one in both]
            names = f"version {both[0].version}", f"version {both[1].version}"
            sections.append(version_section(connections[0], connections[1], names))
    sections += [
        checkpoint_section(judged.scorers[0], second, judged.agreement, judged.snapshots, judged.judged_on)
        for second in judged.scorers[1:]
    ]
    return [Page("comparison", "Comparison", sections)] if sections else []


def _collection_pages(connection: duckdb.DuckDBPyConnection, runs: list[Row]) -> list[Page]:
    pages = []
    for number, run in enumerate(runs[-MOST_RUNS:], start=max(1, len(runs) - MOST_RUNS + 1)):
        with narrowed(connection, "run_id", [run["run_id"]]):
            (horizons,) = run_analysis(connection, "horizons")
            sections = [
                collection_section(connection, run["state"]),
                signal_section(connection, horizons, keeps_tokens=_keeps_tokens(connection)),
            ]
            if horizons["num_settings"]:
                sections.append(value_section(connection))
        pages.append(Page(f"run-{number}", str(run["run_id"]), sections, group="Collection runs"))
    return pages
