"""Writes the store that every later release must read: `python -m tests.stores.make tests/stores/vN`.

One run of each kind on a tiny model, packed into `store.tar.xz`, and beside it `expected.json`: what each
version answered on that day. A folder that is there stays as it is; a new format gets a new one, and so does
a new set of columns (`v1-columns3`).
"""

import hashlib
import json
import sys
import tarfile
import tempfile
from pathlib import Path

from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store.store import StoreVersion
from tests.collect.runs import tiny_run
from tests.models import save_tiny_model

QUERIES = {
    "documents": "select document_id, source, split, num_tokens from documents order by all",
    "trajectories": "select trajectory_id, run_id, document_id, policy, start, levels, cursors, horizon, "
    "baseline_nll, num_legal_actions from trajectories order by all",
    "effects": "select trajectory_id, action, node_level, node_index, entry_level, first_token, delta_nll, "
    "estimator, estimator_window, inclusion_probability, status from effects order by all",
    "labels": "select snapshot_id, action, node_level, node_index, delta_nll, stderr, value_of_detail, "
    "positions, distance_to_cursor, inclusion_probability, estimator, attention_mass from labels "
    "order by all",
    "controls": "select snapshot_id, action, node_level, node_index, information_value, gist_value "
    "from controls order by all",
    "joint_edits": "select snapshot_id, actions, delta_nll, sum_of_singles from joint_edits order by all",
    "variants": "select snapshot_id, variant_group_id, loss, adv_delta from variants order by all",
    "runs": "select run_id, outcome, noise_floor, calibration, audit, estimator from runs order by run_id",
}
"""Columns by name, so that a view may gain more."""

SETTINGS: dict[str, object] = {
    "corpus.min_tokens": 96,
    "corpus.max_tokens": 160,
    "corpus.limit": 3,
    "corpus.validation_fraction": 0.3,
    "corpus.test_fraction": 0.3,
    "tree.block_size": 4,
    "collect.horizon": 8,
    "collect.cursors_per_trajectory": 2,
    "collect.cursor_stride": 4,
    "collect.window": 64,
    "collect.recency_level_tokens": (8, 24),
    "collect.train_wc_length": 24,
    "collect.protected_tail": 4,
    "collect.max_actions": 4,
    "collect.trajectories_per_document": 1,
}

RUNS: list[dict[str, object]] = [
    {"collect.drop_controls": True, "collect.joint_edits": 2, "collect.attention_mass": True},
    {"collect.num_random_variants": 2, "collect.seed": 1},
    {
        "collect.estimator": "windowed", "collect.estimator_window": 8, "collect.audit_fraction": 0.5,
        "collect.min_audit_spearman": -1.0, "collect.seed": 2,
    },
]  # fmt: skip


def answers(version: StoreVersion) -> dict[str, dict[str, object]]:
    """For each query the number of rows and a hash of all of them, floats to six digits."""
    connection = connect(version)
    found: dict[str, dict[str, object]] = {}
    for name, query in QUERIES.items():
        rows = fetch_rows(connection, query)
        text = json.dumps(rows, default=str, sort_keys=True, cls=_Rounded)
        found[name] = {"num_rows": len(rows), "sha256": hashlib.sha256(text.encode()).hexdigest()}
    return found


class _Rounded(json.JSONEncoder):
    """Sums may be added in another order by another DuckDB."""

    def iterencode(self, o: object, _one_shot: bool = False):
        return super().iterencode(_round(o), _one_shot)


def _round(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.4e}"
    if isinstance(value, list):
        return [_round(one) for one in value]
    if isinstance(value, dict):
        return {key: _round(one) for key, one in value.items()}
    return value


def write_texts(folder: Path) -> Path:
    """Fourteen short texts, unlike enough not to be near-duplicates."""
    folder.mkdir()
    for i in range(14):
        words = [f"{chr(97 + (i * 7 + j * j) % 26)}{(i + 3) * (j + 5) % 97}" for j in range(60)]
        (folder / f"text{i:02d}.txt").write_text(" ".join(words))
    return folder


def main(folder: Path) -> None:
    if folder.exists():
        raise SystemExit(f"{folder} is there already and stays as it is")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        model, corpus = save_tiny_model(scratch / "model"), write_texts(scratch / "corpus")
        settings = {**SETTINGS, "model.name": str(model), "corpus.paths": (str(corpus),)}
        for changes in RUNS:
            run = tiny_run(settings, scratch, **changes)
            run.measure()
        newest = run.store.at().version
        expected = {str(version): answers(run.store.at(version)) for version in range(newest + 1)}
        folder.mkdir(parents=True)
        with tarfile.open(folder / "store.tar.xz", "w:xz") as archive:
            archive.add(scratch / "store", "store")
        (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
