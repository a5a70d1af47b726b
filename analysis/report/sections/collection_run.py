"""Page of one collection run: its settings, the checks of its own numbers, and its documents."""

import json
from collections.abc import Mapping
from typing import Any

import duckdb

from mctrace.analysis.questions.catalogue import Row, run_analysis
from mctrace.analysis.report.formatting import MISSING, count, group_name, number, percent, short_hash, text
from mctrace.analysis.report.page import KeyFigure, Section, Table

_FIDELITY = {
    "Actions": "num_actions",
    "Spearman": "spearman",
    "Sign agreement": "sign_agreement",
    "Top-k recall": "top_k_recall",
    "Mean absolute error": "mae",
}


def collection_section(connection: duckdb.DuckDBPyConnection, state: str) -> Section:
    """Section on the run that `connection` is narrowed to."""
    (run,) = run_analysis(connection, "provenance")
    checks = run_analysis(connection, "run_checks")
    software = _software(run["software"])
    return Section(
        "run",
        f"Run {run['run_id']}",
        [_sentence(run, state)],
        facts=[
            KeyFigure("documents", count(run["num_documents"])),
            KeyFigure("snapshots", count(run["num_snapshots"])),
            KeyFigure("actions measured", count(run["num_effects"])),
            KeyFigure("labels", count(run["num_labels"])),
            KeyFigure("noise floor, nats/token", _noise_floor(checks)),
        ],
        tables=[
            *_fidelity_table(checks),
            *_audit_table(run_analysis(connection, "estimator_audit")),
            _documents_table(run_analysis(connection, "by_document")),
        ],
        folded={
            title: content
            for title, content in (("Configuration", run["config"]), ("Software", software))
            if content
        },
    )


def _sentence(run: Row, state: str) -> str:
    when = f"{run['started_at']:%Y-%m-%d %H:%M} UTC" if run["started_at"] else "an unknown time"
    return (
        f"Started {when}, {state}. Base model {text(run['model_name'])} ({short_hash(run['model_hash'])}), "
        f"gists {text(run['gist_source'])} ({short_hash(run['gist_hash'])}), {text(run['dtype'])}, "
        f"estimator {text(run['estimator'])}, policies {text(run['policies'])}. This page shows this run "
        "alone."
    )


def _noise_floor(checks: list[Row]) -> str:
    floors: list[Mapping[str, Any]] = [row["noise_floor"] for row in checks if row["noise_floor"]]
    worst = [value for floor in floors for value in floor.values() if value is not None]
    return number(max(worst)) if worst else MISSING


def _fidelity_table(checks: list[Row]) -> list[Table]:
    rows = [
        [name, *(_number(found[key]) for key in _FIDELITY.values())]
        for check in checks
        for name in ("calibration", "audit")
        if (found := check[name])
    ]
    caption = "Estimated against exact labels; errors in nats per token"
    tables = [Table(caption, ["Check", *_FIDELITY], rows, numeric=frozenset(_FIDELITY))] if rows else []
    return tables + _strata_table(checks)


def _strata_table(checks: list[Row]) -> list[Table]:
    figures = {"Actions": "num_actions", "Spearman": "spearman", "Pearson": "pearson",
               "Same sign": "sign_agreement", "Top tenth found": "top_k_recall"}  # fmt: skip
    rows = [
        [
            f"{found['action']}, node level {found['node_level']}",
            *(_number(found[key]) for key in figures.values()),
        ]
        for check in checks
        for found in check["calibration_strata"] or ()
    ]
    caption = "Calibration by action and level"
    return [Table(caption, ["Action", *figures], rows, numeric=frozenset(figures))] if rows else []


def _audit_table(rows: list[Row]) -> list[Table]:
    columns = [
        "Audited", "Documents", "Spearman", "Same sign", "Mean error", "95% error", "Bias", "Median |exact|",
    ]  # fmt: skip
    cells = [
        [
            group_name(row),
            row["estimator"],
            MISSING if row["estimator_window"] is None else count(row["estimator_window"]),
            count(row["num_audited"]),
            count(row["num_documents"]),
            number(row["spearman"]),
            percent(row["sign_agreement"]),
            *(number(row[key]) for key in ("mae", "p95_error", "bias", "median_abs_exact")),
        ]
        for row in rows
    ]
    named = ["Action and entry level", "Estimator", "Window", *columns]
    caption = "Audited labels, estimated against exact; nats per token"
    return [Table(caption, named, cells, numeric=frozenset({"Window", *columns}))] if rows else []


def _number(value: float | None) -> str:
    return count(value) if isinstance(value, int) else number(value)


def _documents_table(rows: list[Row]) -> Table:
    columns = ["Snapshots", "Labels", "Beyond 2 stderr", "Mean |value|", "Widest |value|"]
    cells = [
        [
            text(row["source"]),
            text(row["split"]),
            text(row["policies"]),
            count(row["num_snapshots"]),
            count(row["num_labels"]),
            percent(row["share_beyond"]),
            number(row["mean_abs_value"]),
            number(row["widest_value"]),
        ]
        for row in rows
    ]
    return Table(
        "Documents, the widest share of strong labels first; values in nats per token",
        ["Source", "Split", "Policies", *columns],
        cells,
        numeric=frozenset(columns),
    )


def _software(recorded: str | None) -> str:
    try:
        found = json.loads(recorded or "{}")
    except ValueError:
        return recorded or ""
    if not isinstance(found, dict):
        return str(recorded)
    return "\n".join(f"{name} {version}" for name, version in sorted(found.items()))
