"""`mctrace init`, `log`, `compact` and `verify`: making a store, and looking at one."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console

from mctrace.cli.config import DEFAULT_FILE, PipelineConfig, load_config
from mctrace.cli.progress import make_progress
from mctrace.cli.reading import open_version
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.sql.registry import read_sql
from mctrace.datasets.store.store import DERIVED_BY, Store, create_store, open_store
from mctrace.datasets.upkeep.compaction import compact
from mctrace.datasets.upkeep.sweep import sweep as sweep_store
from mctrace.datasets.upkeep.verify import verify
from mctrace.datasets.upkeep.withdrawal import withdraw_damaged
from mctrace.errors import ConfigError, InputError, MctraceError, StoreError


def init_project(config: Path | None, store: str | None, assignments: list[str], console: Console) -> None:
    """Writes pipeline.toml unless there is one, and creates the store it names."""
    file = config or Path(DEFAULT_FILE)
    is_new = not file.exists()
    if not is_new:
        console.print(f"{file} is there already and stays as it is", highlight=False)
    else:
        try:
            file.write_text(Path(__file__).with_name("template.toml").read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot write {file}: {error.strerror}") from error
    try:
        settings = load_config(file, assignments, {"store.uri": store})
        create_store(settings.store.uri)
    except MctraceError:
        if is_new:
            file.unlink(missing_ok=True)
        raise
    if is_new:
        console.print(f"wrote {file}", highlight=False)
    console.print(f"the store {settings.store.uri} is ready: next, 'mctrace collect'", highlight=False)


def print_log(config: PipelineConfig, at: int | None, console: Console) -> None:
    """The runs of a version, oldest first: when, from which model, and what each added."""
    store, version = open_store(config.store.uri), open_version(config.store, at)
    console.print(f"{config.store.uri} at version {version.version}", highlight=False)
    versions = store.ledger.versions_by_run()
    num_rows: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    for part in (committed.part for committed in version.listed):
        if not part.lineage:  # compacted rows were counted where they were measured
            num_rows[part.run_id].update({(part.kind, name): n for name, n in part.num_rows.items()})
    for row in fetch_rows(connect(version), read_sql("log.sql")):
        first, last = versions.get(row["run_id"], (0, 0))
        ended = row["outcome"] or "never ended"
        gists = row["gist_source"] if row["gist_source"] == row["gist_hash"] else row["gist_hash"][:8]
        counts = num_rows[row["run_id"]]
        num_effects = sum(n for (_, table), n in counts.items() if table == "effects")
        num_joints = counts["joints", "joint_effects"]
        rate = row["worker_seconds"] and counts["trajectory", "effects"] / row["worker_seconds"]
        console.print(
            f"\nrun {row['run_id']}  {ended}  started {row['started_at']:%Y-%m-%d %H:%M} UTC  "
            f"versions {first}-{last}\n"
            f"  model {row['model_name']} ({row['model_hash'][:8]}), gists {gists}, {row['dtype']}, "
            f"{_estimator(row)}\n"
            f"  {row['num_documents']} documents, {row['num_trajectories']} trajectories, "
            f"{row['num_snapshots']} snapshots, {num_effects} effects"
            + (f", {num_joints} joint edits" if num_joints else "")
            + (f", {rate:.2f} effects/s per worker" if rate else "")
            + "".join(f"\n  {line}" for line in _checks(row)),
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    for row in fetch_rows(connect(version), "from datasets order by parent_version, name"):
        first, _ = versions.get(f"{DERIVED_BY}{row['name']}", (0, 0))
        console.print(f"\n{_derived(row, first)}", markup=False, highlight=False, soft_wrap=True)


def _derived(row: Mapping[str, Any], made: int) -> str:
    parent = f"dataset {row['parent_dataset']} at " if row["parent_dataset"] else ""
    variables = "".join(f", {name} {value}" for name, value in json.loads(row["variables"]).items())
    return (
        f"dataset {row['name']}  {row['num_rows']} {row['kind']}  version {made}\n"
        f"  derived from {parent}version {row['parent_version']} by recipe {row['recipe_name']} "
        f"({row['recipe_hash'][:8]}), seed {row['seed']}{variables}"
    )


def print_versions(config: PipelineConfig, at: int | None, console: Console) -> None:
    """Every version up to one, oldest first: when, what it added, and the model, gists and estimator it came
    from.
    """
    store, version = open_store(config.store.uri), open_version(config.store, at)
    runs = {row["run_id"]: row for row in fetch_rows(connect(version), "from runs")}
    for record in store.ledger.history()[: version.version + 1]:
        added = ", ".join(f"{count} {kind}" for kind, count in record.added.items()) or "nothing"
        withdrawn = ", ".join(f"{count} {kind}" for kind, count in record.withdrawn.items())
        console.print(
            f"{record.version}  {record.made_at:%Y-%m-%d %H:%M:%S} UTC  added {added}"
            + (f", withdrew {withdrawn}" if withdrawn else "")
            + "".join(f"\n    {_origin(run_id, runs.get(run_id))}" for run_id in record.run_ids),
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _origin(run_id: str, run: Mapping[str, Any] | None) -> str:
    if run is None:
        return run_id
    config = hashlib.sha256(run["config"].encode()).hexdigest()[:8] if run["config"] else "unknown"
    return (
        f"run {run_id}: model {run['model_name']} ({run['model_hash'][:8]}), gists {run['gist_source']}, "
        f"{run['dtype']}, {_estimator(run)}, configuration {config}"
    )


def compact_store(config: PipelineConfig, console: Console) -> None:
    """Makes large parts of small ones and says how many."""
    store = open_store(config.store.uri)
    made = compact(store, make_progress(console))
    num_parts = sum(len(part.lineage) for part in made)
    console.print(
        f"{num_parts} parts compacted into {len(made)}; the store is at version {store.ledger.version()}",
        highlight=False,
    )


def _estimator(row: Mapping[str, Any]) -> str:
    if row["estimator_window"] is None:
        return str(row["estimator"])
    return f"{row['estimator']} (window {row['estimator_window']})"


def _checks(row: Mapping[str, Any]) -> list[str]:
    """What a run found out about its own numbers."""
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
            lines.append(f"{name} of windowed against exact on {found['num_actions']} actions: {figures}")
    return lines


def verify_run(
    config: PipelineConfig,
    version: int | None,
    *,
    quick: bool,
    sweep_after: timedelta | None,
    withdraw: bool,
    console: Console,
) -> None:
    """Prints every problem, and sweeps and withdraws where that is asked for.

    Raises StoreError when there was a problem, withdrawn or not, so that whoever reads the exit status alone
    knows that labels are missing now.
    """
    if withdraw and (quick or version is not None):
        raise InputError(
            "--withdraw looks at every byte of the newest version: leave out "
            + ("--quick" if quick else "--version")
        )
    store = open_store(config.store.uri)
    at = store.at(version, even_if_cut=True)
    problems = list(verify(at, quick=quick, progress=make_progress(console)))
    for problem in problems:
        console.print(f"{problem.place} {problem.what}", markup=False, highlight=False)
    if sweep_after is not None:
        removed = sweep_store(store, sweep_after)
        console.print(f"swept {len(removed)} folders and files that no version names")
    if problems:
        found = f"{len(problems)} problem(s) in {config.store.uri} at version {at.version}"
        raise StoreError(f"{found}; {_withdraw(store, console)}" if withdraw else found)
    num_files = sum(len(committed.part.files) for committed in at.parts)
    size = sum(committed.part.size for committed in at.parts)
    console.print(
        f"{config.store.uri} at version {at.version} is whole: {len(at.parts)} parts, {num_files} files, "
        f"{size / 1e6:.1f} MB{' (hashes not checked)' if quick else ''}",
        highlight=False,
    )


def _withdraw(store: Store, console: Console) -> str:
    """What was withdrawn, and what brings it back."""
    found = withdraw_damaged(store, make_progress(console))
    for part in found.kept:
        console.print(
            f"{part.folder} stays: a run's own record cannot be made again", markup=False, highlight=False
        )
    if not found.withdrawn:
        return "no damaged part that could be made again"
    kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(Counter(p.kind for p in found.withdrawn).items()))
    return (
        f"withdrew {kinds} in version {store.ledger.version()}: the same 'mctrace collect' measures them "
        "again, the same 'mctrace derive' derives a dataset again"
    )
