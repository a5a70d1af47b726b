"""Section on the contents of a store: runs, documents, splits, and the settings that measured them."""

from typing import Any

from mctrace.analysis.questions.catalogue import Row
from mctrace.analysis.report.formatting import MISSING, count, counted, short_hash, text
from mctrace.analysis.report.page import KeyFigure, Section, Table

NO_LABELS = "There are no labels in this version of the store, so there is nothing to show here."


def store_section(runs: list[Row], splits: list[Row], horizons: Row) -> Section:
    """From the rows of provenance.sql and splits.sql, and the row of horizons.sql."""
    if not runs:
        return Section(
            "store",
            "Contents of the store",
            ["This version of the store is empty: no run has committed anything to it yet."],
        )
    return Section(
        "store",
        "Contents of the store",
        [
            "An action is an expand (a gist becomes its children) or a collapse (siblings become their "
            "gist). Measuring one gives an effect: the change in the frozen model's loss on the tokens "
            "that follow. A label is one effect read at one cursor."
        ],
        tables=[_settings_table(runs), _yield_table(runs), _split_table(splits)],
        notes=_notes(runs, horizons),
    )


def store_facts(runs: list[Row], splits: list[Row], horizons: Row) -> list[KeyFigure]:
    """The size of a store as key figures."""

    def total(column: str) -> str:
        return count(sum(run[column] for run in runs))

    return [
        KeyFigure("documents", count(sum(split["num_documents"] for split in splits))),
        KeyFigure("snapshots", total("num_snapshots")),
        KeyFigure("actions measured", total("num_effects")),
        KeyFigure("labels", total("num_labels")),
        KeyFigure("horizon, tokens", _range(horizons["shortest_horizon"], horizons["longest_horizon"])),
    ]


def _settings_table(runs: list[Row]) -> Table:
    columns = ["Started (UTC)", "State", "Base model", "Weights", "Gists", "Dtype", "Estimator"]
    rows = [
        [
            text(run["run_id"]),
            f"{run['started_at']:%Y-%m-%d %H:%M}" if run["started_at"] else MISSING,
            text(run["state"]),
            text(run["model_name"]) + (f" @ {run['model_revision']}" if run["model_revision"] else ""),
            short_hash(run["model_hash"]),
            _gists(run),
            text(run["dtype"]),
            text(run["estimator"]),
        ]
        for run in runs
    ]
    return Table("Runs: what measured them", ["Run", *columns], rows)


def _yield_table(runs: list[Row]) -> Table:
    counts = {
        "Documents": "num_documents",
        "Trajectories": "num_trajectories",
        "Snapshots": "num_snapshots",
        "Actions measured": "num_effects",
        "Not measured": "num_failed",
        "Labels": "num_labels",
    }
    rows = [
        [
            text(run["run_id"]),
            text(run["policies"]),
            _range(run["shortest_horizon"], run["longest_horizon"]),
            *(count(run[column]) for column in counts.values()),
        ]
        for run in runs
    ]
    return Table(
        "Runs: what they added",
        ["Run", "Policies", "Horizon, tokens", *counts],
        rows,
        numeric=frozenset({"Horizon, tokens", *counts}),
    )


def _split_table(splits: list[Row]) -> Table:
    columns = {
        "Documents": "num_documents",
        "With labels": "num_measured_documents",
        "Snapshots with labels": "num_labelled_snapshots",
        "Labels": "num_labels",
    }
    rows = [
        [text(split["split"]), *(count(split[column]) for column in columns.values())] for split in splits
    ]
    return Table("Splits, by document", ["Split", *columns], rows, numeric=frozenset(columns))


def _notes(runs: list[Row], horizons: Row) -> list[str]:
    notes = []
    if horizons["num_settings"] > 1:
        notes.append(
            f"The labels come from {horizons['num_settings']} different settings (base model, gists, dtype "
            "or estimator), and every figure below pools them: read differences with care."
        )
    if horizons["shortest_horizon"] != horizons["longest_horizon"]:
        notes.append(
            f"Horizons differ: comparisons across horizons stop at {horizons['shortest_horizon']} tokens, "
            "the shortest; everything else takes each label at its own."
        )
    num_failed = sum(run["num_failed"] for run in runs)
    if num_failed:
        notes.append(f"Failed, and so without a label: {counted(num_failed, 'action')}.")
    return notes


def _gists(run: dict[str, Any]) -> str:
    source = text(run["gist_source"])
    return source if run["gist_hash"] in (None, source) else f"{source} ({short_hash(run['gist_hash'])})"


def _range(shortest: int | None, longest: int | None) -> str:
    if shortest is None or longest is None:
        return MISSING
    return count(shortest) if shortest == longest else f"{count(shortest)} to {count(longest)}"
