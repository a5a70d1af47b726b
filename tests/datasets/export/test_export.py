"""An export says what the store says, is opened by Hugging Face's own library, and is whole or not there."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mctrace.datasets.export import export as exporting
from mctrace.datasets.export.export import METADATA, ExportRequest, export
from mctrace.datasets.export.output_folder import scratch_beside
from mctrace.datasets.export.table_files import SplitFiles
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store.zarr_arrays import ArrayFolder
from mctrace.errors import InputError, StoreError
from mctrace.progress import Silent
from tests.datasets.synthetic import (
    EFFECTS,
    NUM_TOKENS,
    PROVENANCE,
    WIDTH,
    add_document,
    add_other_gists,
    add_trajectory,
    add_vocabulary,
    document_arrays,
    embedding_table,
)


@pytest.fixture(autouse=True)
def hugging_face(monkeypatch, tmp_path):
    """Its cache in this test's own folder."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf/datasets"))


def run(store, out: Path, *, overwrite=False, **request) -> Path:
    export(store.at(), out, ExportRequest(**request), Silent(), overwrite=overwrite)
    return out


def tables_of(out: Path, layout: str, tmp_path: Path) -> dict[str, object]:
    """snapshots and documents as Hugging Face opens them."""
    import datasets

    if layout == "hf":
        return {name: datasets.load_from_disk(str(out / name)) for name in ("snapshots", "documents")}
    cache = str(tmp_path / "hf/datasets")
    return {
        name: datasets.load_dataset(str(out), name, cache_dir=cache) for name in ("snapshots", "documents")
    }


@pytest.mark.parametrize("layout", ["hf", "parquet"])
def test_hugging_face_datasets_opens_it(store, tmp_path, layout):
    found = tables_of(run(store, tmp_path / "out", layout=layout), layout, tmp_path)
    snapshots, documents = found["snapshots"], found["documents"]
    assert {split: len(rows) for split, rows in snapshots.items()} == {"train": 2, "validation": 2, "test": 2}
    row = snapshots["train"][1]
    assert (row["snapshot_id"], row["document_id"], row["cursor"]) == ("ta:36", "a", 36)
    assert row["entry_level"] == [2, 1, 1] + [0] * 12
    assert row["num_entries"] == len(row["entry_level"])
    tokens = document_arrays(0)["tokens"]
    assert row["entry_token"] == [None, None, None, *tokens[24:36].tolist()]
    assert row["entry_node_index"][:3] == [0, 4, 5]
    (document,) = documents["train"]
    assert document["tokens"] == tokens.tolist()
    np.testing.assert_array_equal(np.array(document["gists_lod1"]), document_arrays(0)["gists/lod1"])
    assert np.array(document["gists_lod2"]).shape == (NUM_TOKENS // 16, WIDTH)


def test_labels_and_targets_are_those_of_sql(store, tmp_path):
    out = run(store, tmp_path / "out")
    found = {}
    for file in sorted((out / "snapshots").glob("*.parquet")):
        for row in pq.read_table(file).to_pylist():
            for i, kind in enumerate(row["action"]):
                key = (row["snapshot_id"], kind, row["action_node_level"][i], row["action_node_index"][i])
                found[key] = tuple(
                    row[f"action_{name}"][i]
                    for name in (
                        "delta_nll",
                        "stderr",
                        "value_of_detail",
                        "utility_value",
                        "utility_priced",
                        "utility_literal",
                    )
                )
    connection = connect(store.at())
    expected = {}
    for target in ("value", "priced", "literal"):
        for row in fetch_rows(connection, exporting.target_sql(target)):
            key = tuple(row[name] for name in exporting._KEYS)
            before = expected.get(key, (row["delta_nll"], row["stderr"], row["value_of_detail"]))
            expected[key] = (*before, row["utility"])
    assert found == expected
    assert len(found) == 3 * (3 + 4), "the later cursor has one more collapse"


def test_actions_point_at_their_entries(store, tmp_path):
    for row in pq.read_table(next((run(store, tmp_path / "out") / "snapshots").glob("test-*"))).to_pylist():
        firsts, widths = np.array(row["entry_first_token"]), np.array(row["entry_span_width"])
        for kind, level, index, first, count in zip(
            row["action"], row["action_node_level"], row["action_node_index"], row["action_first_entry"],
            row["action_num_entries"], strict=True,
        ):  # fmt: skip
            assert firsts[first] == index * 4**level
            assert widths[first : first + count].sum() == 4**level
            assert count == (1 if kind == "expand" else 4)


def test_where_chooses_labels_and_only_documents_that_are_named_come_along(store, tmp_path):
    out = run(store, tmp_path / "out", where="split = 'test' and action = 'collapse' -- said so")
    assert [f.name for f in (out / "snapshots").iterdir()] == ["test-00000.parquet"]
    rows = pq.read_table(out / "snapshots/test-00000.parquet").to_pylist()
    assert {kind for row in rows for kind in row["action"]} == {"collapse"}
    assert [row["document_id"] for row in pq.read_table(out / "documents").to_pylist()] == ["c"]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("nonsense = 1", "nonsense"),
        ("true); drop view labels; select (1", "expected one SQL condition"),
        ("true) union (select 1", "expected one SQL condition"),
        ("delta_nll > 1e9", "has no label where delta_nll > 1e9"),
        ("run_id in (select content from read_text('/etc/passwd'))", "only queries"),
    ],
)
def test_a_condition_that_is_wrong_leaves_nothing(store, tmp_path, where, message):
    with pytest.raises(InputError, match=message):
        run(store, tmp_path / "out", where=where)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_text_and_embeddings_when_asked_for(store, tmp_path):
    add_vocabulary(store)
    out = run(store, tmp_path / "out", with_embeddings=True, with_text=True)
    row = pq.read_table(out / "snapshots/train-00000.parquet").to_pylist()[0]
    text = pq.read_table(out / "documents/train-00000.parquet").to_pylist()[0]["text"]
    assert text == "".join(chr(97 + token) for token in document_arrays(0)["tokens"])
    assert "".join(row["entry_text"]) == text[: row["cursor"]]
    assert row["entry_text"][0] == text[:16]
    table = pq.read_table(out / "embeddings").to_pydict()
    np.testing.assert_array_equal(np.array(table["embedding"]), embedding_table())
    assert table["token"] == list(range(len(embedding_table())))


def test_text_that_the_store_does_not_have_is_no_empty_text(store, tmp_path):
    with pytest.raises(StoreError, match="does not say what the ids of tokenizer"):
        run(store, tmp_path / "out", with_text=True)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_the_same_request_gives_the_same_bytes_in_many_shards_too(store, tmp_path, monkeypatch):
    monkeypatch.setattr("mctrace.datasets.export.table_files._SHARD_BYTES", 1)
    monkeypatch.setattr(exporting, "_ROWS_AT_ONCE", 1)
    hashes = []
    for name in ("one", "two"):
        out = run(store, tmp_path / name, layout="hf", targets=("literal",))
        files = sorted(path for path in out.rglob("*") if path.is_file())
        hashes.append([(str(f.relative_to(out)), hashlib.sha256(f.read_bytes()).hexdigest()) for f in files])
    assert hashes[0] == hashes[1]
    snapshots = tables_of(tmp_path / "one", "hf", tmp_path)["snapshots"]
    assert snapshots["train"]["snapshot_id"][:] == ["ta:32", "ta:36"]
    assert len(list((tmp_path / "one/snapshots/train").glob("*.arrow"))) == 2


def test_it_says_where_it_comes_from(store, tmp_path):
    out = run(store, tmp_path / "out")
    about = json.loads((out / METADATA).read_text())
    assert about["store_version"] == store.at().version
    assert [run["run_id"] for run in about["runs"]] == ["run"]
    (kind,) = about["provenance"]
    assert kind == PROVENANCE
    assert about["num_labels"] == 21
    target = about["targets"][0]
    assert target["sha256"] == hashlib.sha256(target["sql"].encode()).hexdigest()
    card = (out / "README.md").read_text()
    columns = {f.name for file in out.rglob("*.parquet") for f in pq.read_schema(file)}
    assert all(f"| {name} |" in card for name in columns)


def test_a_mixture_is_exported_with_its_hashes_and_a_warning(store, tmp_path):
    add_other_gists(store)
    out = run(store, tmp_path / "out")
    rows = pq.read_table(out / "snapshots/train-00000.parquet").to_pylist()
    assert {row["gist_hash"] for row in rows} == {"mean", "other"}
    documents = pq.read_table(out / "documents/train-00000.parquet").to_pylist()
    assert len({json.dumps(row["gists_lod1"]) for row in documents}) == 2
    assert "do not compare" in (out / "README.md").read_text()


def test_only_an_earlier_export_is_overwritten(store, tmp_path):
    out = tmp_path / "out"
    run(store, out, targets=("literal",))
    with pytest.raises(InputError, match="--overwrite"):
        run(store, out)
    run(store, out, overwrite=True)
    assert "priced" in (out / METADATA).read_text()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("dear")
    with pytest.raises(InputError, match="no earlier export"):
        run(store, tmp_path / "mine", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out", "store"]


def test_a_failure_half_way_leaves_the_earlier_one(store, tmp_path, monkeypatch):
    out = run(store, tmp_path / "out", targets=("literal",))
    before = (out / METADATA).read_text()

    def full(self, batch):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SplitFiles, "write", full)
    with pytest.raises(InputError, match="No space left"):
        run(store, out, overwrite=True)
    assert (out / METADATA).read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "store"]


def test_a_damaged_version_is_refused(store, tmp_path):
    part = next(c.part for c in store.at().parts if c.part.part_id == "tb")
    (Path(store.location.root) / part.folder / "effects.parquet").write_bytes(b"")
    with pytest.raises(StoreError, match="--skip-damaged"):
        run(store, tmp_path / "out")


def test_a_target_of_one_s_own(store, tmp_path):
    (tmp_path / "mine.sql").write_text(
        "select *, value_of_detail * 2 as utility from labels where node_level = 2"
    )
    out = run(store, tmp_path / "out", targets=(str(tmp_path / "mine.sql"),))
    row = pq.read_table(out / "snapshots/train-00000.parquet").to_pylist()[0]
    doubled = dict(zip(row["action_node_level"], row["action_utility_mine"], strict=True))
    assert doubled[2] == 2.0
    assert doubled[1] is None
    with pytest.raises(InputError, match="two targets of one name"):
        run(store, tmp_path / "again", targets=("literal", str(tmp_path / "literal.sql")))


def test_snapshots_without_an_embedding_of_their_document_stay_out(store, tmp_path):
    add_trajectory(store, "orphan", "nowhere", EFFECTS)
    out = run(store, tmp_path / "out")
    ids = {row["trajectory_id"] for f in out.glob("snapshots/*") for row in pq.read_table(f).to_pylist()}
    assert ids == {"ta", "tb", "tc"}


@pytest.mark.parametrize(
    "source", ["../../etc/passwd", "/etc/passwd", "a/../../b", "x" * 5000, "\0", "a\nb: c"]
)
def test_a_source_is_data_and_no_path(store, tmp_path, source):
    add_document(store, "hostile", "train", 9, source=source)
    add_trajectory(store, "thostile", "hostile", EFFECTS)
    out = run(store, tmp_path / "out")
    rows = pq.read_table(out / "documents" / "train-00000.parquet").to_pylist()
    assert source in [row["source"] for row in rows]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "store"]


@pytest.mark.parametrize("split", ["../../../escaped", "holdout", ""])
def test_a_split_is_no_path_either(store, tmp_path, split):
    add_document(store, "hostile", split, 9)
    add_trajectory(store, "thostile", "hostile", EFFECTS)
    with pytest.raises(StoreError, match="split"):
        run(store, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


@pytest.mark.parametrize("arrays", ["../elsewhere/arrays.zarr", "/etc", "parts/none/arrays.zarr", "ledger"])
def test_arrays_are_those_of_a_part_and_no_path(store, arrays):
    with pytest.raises(StoreError, match="no part of version"):
        ArrayFolder.of(store.at(), arrays)


KILLED = """
import os, sys
from mctrace.progress import Silent
from mctrace.datasets.export import export, output_folder
from mctrace.datasets.store.store import open_store
if sys.argv[3] == "writing":
    export._describe = lambda *_: os._exit(9)
else:  # between the two renames
    output_folder.Location.move_in = lambda *_: os._exit(9)
export.export(open_store(sys.argv[1]).at(), export.Path(sys.argv[2]), export.ExportRequest(), Silent(),
              overwrite=True)
"""


@pytest.mark.parametrize("when", ["writing", "renaming"])
def test_what_a_killed_export_leaves_is_cleared_by_the_next_and_no_earlier_one_is_lost(store, tmp_path, when):
    out = run(store, tmp_path / "out")
    killed = [sys.executable, "-c", KILLED, store.location.root, str(out), when]
    assert subprocess.run(killed, check=False).returncode == 9
    assert len(list(tmp_path.iterdir())) > 2
    with pytest.raises(InputError, match="holds an earlier export"):
        run(store, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "store"]
    run(store, out, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "store"]


def test_two_exports_at_once_to_one_place_are_refused(store, tmp_path):
    with scratch_beside(tmp_path / "out"), pytest.raises(InputError, match="another process is exporting"):
        run(store, tmp_path / "out")
    run(store, tmp_path / "out")
