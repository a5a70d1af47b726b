"""Logs of a store in a terminal: its runs, derived datasets and versions."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console

from mctrace.datasets.store.provenance import short_gists
from mctrace.datasets.upkeep.run_log import LoggedDataset, LoggedRun, LoggedVersion


def print_runs(runs: Iterable[LoggedRun], console: Console) -> None:
    """Print of each run: when, from which model, and what it added."""
    for run in runs:
        row, (first, last) = run.row, run.versions
        seen = f" (last at work {run.last_sign:%Y-%m-%d %H:%M:%S} UTC)" if run.last_sign else ""
        source, gist_hash = row["gist_source"], row["gist_hash"]
        gists = source if source == gist_hash else short_gists(gist_hash)
        joint_edits, rate = run.num_joint_edits, run.effects_per_second
        console.print(
            f"\nrun {row['run_id']}  {run.state}{seen}  started {row['started_at']:%Y-%m-%d %H:%M} UTC  "
            f"versions {first}-{last}\n"
            f"  model {row['model_name']} ({row['model_hash'][:8]}), gists {gists}, {row['dtype']}, "
            f"{_estimator(row)}\n"
            f"  {row['num_documents']} documents, {row['num_trajectories']} trajectories, "
            f"{row['num_snapshots']} snapshots, {run.num_effects} effects"
            + (f", {joint_edits} joint edits" if joint_edits else "")
            + (f", {rate:.2f} effects/s per worker" if rate else "")
            + "".join(f"\n  {line}" for line in _checks(row)),
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def print_quarantine(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print the items in quarantine, and what measures them again; nothing where there are none."""
    for row in rows:
        console.print(
            f"\nquarantined  {row['kind']} {row['trajectory_id'][:12]} of {row['source']}, run "
            f"{row['run_id']}, after {row['num_attempts']} tries\n  {row['reason']}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    if rows:
        console.print("\n'mctrace collect --retry-quarantined' measures these again", highlight=False)


def print_datasets(datasets: Iterable[LoggedDataset], console: Console) -> None:
    """Print of each derived dataset: its rows, and the recipe and version they come from."""
    for dataset in datasets:
        line = _derived(dataset.row, dataset.version)
        console.print(f"\n{line}", markup=False, highlight=False, soft_wrap=True)


def print_versions(versions: Iterable[LoggedVersion], console: Console) -> None:
    """Print of each version: when, what it added, and the model, gists and estimator it came from."""
    for version in versions:
        record = version.record
        added = ", ".join(f"{count} {kind}" for kind, count in record.added.items()) or "nothing"
        withdrawn = ", ".join(f"{count} {kind}" for kind, count in record.withdrawn.items())
        console.print(
            f"{record.version}  {record.made_at:%Y-%m-%d %H:%M:%S} UTC  added {added}"
            + (f", withdrew {withdrawn}" if withdrawn else "")
            + "".join(f"\n    {_origin(run_id, row)}" for run_id, row in version.runs),
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _derived(row: Mapping[str, Any], made: int) -> str:
    parent = f"dataset {row['parent_dataset']} at " if row["parent_dataset"] else ""
    variables = "".join(f", {name} {value}" for name, value in json.loads(row["variables"]).items())
    return (
        f"dataset {row['name']}  {row['num_rows']} {row['kind']}  version {made}\n"
        f"  derived from {parent}version {row['parent_version']} by recipe {row['recipe_name']} "
        f"({row['recipe_hash'][:8]}), seed {row['seed']}{variables}"
    )


def _origin(run_id: str, run: Mapping[str, Any] | None) -> str:
    if run is None:
        return run_id
    config = hashlib.sha256(run["config"].encode()).hexdigest()[:8] if run["config"] else "unknown"
    return (
        f"run {run_id}: model {run['model_name']} ({run['model_hash'][:8]}), gists {run['gist_source']}, "
        f"{run['dtype']}, {_estimator(run)}, configuration {config}"
    )


def _estimator(row: Mapping[str, Any]) -> str:
    if row["estimator_window"] is None:
        return str(row["estimator"])
    return f"{row['estimator']} (window {row['estimator_window']})"


def _checks(row: Mapping[str, Any]) -> list[str]:
    """Noise floor, calibration and audit of a run, a line each."""
    lines = []
    if floor := row["noise_floor"]:
        regrouped = "" if floor["regrouped"] is None else f", {floor['regrouped']:.1e} (other batch)"
        lines.append(f"noise floor of a label: {floor['no_op']:.1e} (no-op edit){regrouped} nats/token")
    for name in ("calibration", "audit"):
        if found := row[name]:
            figures = " ".join(
                f"{label} {'none' if found[key] is None else format(found[key], form)}"
                for label, key, form in (
                    ("Spearman", "spearman", ".3f"),
                    ("sign agreement", "sign_agreement", ".3f"),
                    ("top-k recall", "top_k_recall", ".3f"),
                    ("MAE", "mae", ".1e"),
                )
            )
            lines.append(
                f"{name} of {_cheaper(row)} against exact on {found['num_actions']} actions: {figures}"
            )
    lines += [_stratum(found) for found in row["calibration_strata"] or ()]
    return lines


def _cheaper(row: Mapping[str, Any]) -> str:
    """The estimator that was calibrated: a windowed run that failed its gate says exact."""
    return "gradient" if row["estimator"] == "gradient" else "windowed"


def _stratum(found: Mapping[str, Any]) -> str:
    figures = " ".join(
        f"{label} {'none' if found[key] is None else format(found[key], '.3f')}"
        for label, key in (
            ("Spearman", "spearman"),
            ("Pearson", "pearson"),
            ("sign agreement", "sign_agreement"),
            ("top-k recall", "top_k_recall"),
        )
    )
    node = f"{found['action']} of level {found['node_level']}"
    return f"  {node}, {found['num_actions']} actions: {figures}"
