"""Trace files: valid rows become a plan, wrong ones a list with reasons."""

import json
import random
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mctrace.collect.config import CorpusConfig
from mctrace.collect.corpus.documents import Document, document_id
from mctrace.collect.corpus.split_assigner import SplitAssigner
from mctrace.collect.planning.document_plan import plan_trajectory
from mctrace.collect.planning.run_plan import RunPlan
from mctrace.collect.planning.trace_files import OPTIONAL, TRACES, plan_traces
from mctrace.collect.planning.work_units import PlannedTrajectory, WorkUnit
from mctrace.context.lod_map import LODMap
from mctrace.context.trajectory import Trajectory
from mctrace.context.tree import Node
from mctrace.datasets.store.parts import write_part
from mctrace.datasets.store.store import Store, create_store
from mctrace.errors import InputError
from tests.collect.making import PROVENANCE, TREE, make_document, random_tokens, small_config

TOKENS = random_tokens(200).tolist()
LEVELS = [2, 2, 2, 2, 1, 1, 1, 1, 1, 0, 1, 0, 0, 0, 0, 0]
IDENTITY = document_id(np.array(TOKENS), "tokenizer")
OTHER_TYPES = {"levels": pa.list_(pa.int64()), "tokens": pa.list_(pa.int64())}


def good_row(**changes: object) -> dict[str, object]:
    row: dict[str, object] = {
        "source": "runtime/session-7",
        "tokenizer_hash": "tokenizer",
        "document_id": None,
        "tokens": TOKENS,
        "block_size": 4,
        "start": 16,
        "levels": LEVELS,
        "cursors": [80, 84, 91],
    }
    return {**row, **changes}


def write(folder: Path, *rows: dict[str, object], types: dict[str, pa.DataType] | None = None) -> Path:
    """A trace file; `types` stands for writers whose columns are wider than the documented ones."""
    noted = [f for f in OPTIONAL if any(f.name in row for row in rows)]
    schema = pa.schema([(f.name, (types or {}).get(f.name, f.type)) for f in (*TRACES, *noted)])
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), folder / "traces.parquet")
    return folder / "traces.parquet"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return create_store(str(tmp_path / "store"))


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """For tests that commit nothing."""
    return create_store(str(tmp_path_factory.mktemp("empty") / "store"))


def commit_document(store: Store, document: Document) -> None:
    """The document as a run would have left it in the store."""
    row = {
        "document_id": document.document_id,
        "source": document.source,
        "tokenizer_hash": document.tokenizer_hash,
        "gist_hash": "gists",
        "model_hash": "model",
        "num_tokens": document.num_tokens,
        "block_size": 4,
        "max_level": 2,
        "split_group": document.placement.split_group,
        "split": "validation",
        "minhash": document.placement.minhash.tolist(),
    }
    part = write_part(
        store.location,
        part_id=f"part-of-{document.document_id[:20]}",
        kind="document",
        run_id="run",
        tables={"documents": [row]},
        arrays={"tokens": document.tokens},
    )
    store.commit([part])


def plan(path: Path, store: Store | None, **settings: object) -> RunPlan:
    found = plan_traces(path, store, small_config(**settings), CorpusConfig(), PROVENANCE)
    assert found.rejected == ()
    return found.plan


def rejected(path: Path, store: Store | None) -> dict[int, str]:
    """Reasons by row."""
    found = plan_traces(path, store, small_config(), CorpusConfig(), PROVENANCE).rejected
    return {row.row: row.reason for row in found}


def taken(action: str, level: int, index: int) -> dict[str, object]:
    return {"action": action, "node_level": level, "node_index": index}


def test_what_a_runtime_noted_goes_with_the_unit_and_changes_no_id(tmp_path, empty_store):
    logged_at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    noted = good_row(logged_at=logged_at, actions_taken=[taken("expand", 2, 1), taken("collapse", 1, 16)])
    (unit,) = plan(write(tmp_path, noted), empty_store).units
    assert unit.log.logged_at == logged_at
    assert [(one.kind, one.node) for one in unit.log.actions_taken] == [
        ("expand", Node(2, 1)), ("collapse", Node(1, 16)),
    ]  # fmt: skip
    (bare,) = plan(write(tmp_path, good_row(actions_taken=None)), empty_store).units
    assert bare.log.actions_taken is None
    assert bare.part_id == unit.part_id
    assert unit.without_caches().log == unit.log
    wrong = [
        [taken("expand", 2, 99)],
        [taken("grow", 1, 9)],
        [taken("expand", 0, 30)],
        [taken("expand", 1, 1)],
    ]
    reasons = rejected(write(tmp_path, *(good_row(actions_taken=one) for one in wrong)), empty_store)
    assert len(reasons) == 4
    assert "outside the window" in reasons[0]
    assert "'grow'" in reasons[1]


def test_a_valid_row_is_planned_as_its_trajectory(tmp_path, empty_store):
    found = plan(write(tmp_path, good_row()), empty_store, max_actions=6)
    head = LODMap(TREE, 16, 80, np.array(LEVELS, dtype=np.uint8))
    document = found.documents[IDENTITY]
    (expected,) = plan_trajectory(
        document, "import", Trajectory(head, (80, 84, 91), 16), small_config(max_actions=6), PROVENANCE
    )
    assert found.units == (expected,)
    assert isinstance(found.units[0], PlannedTrajectory)
    assert found.provenance == PROVENANCE
    assert (document.source, document.tokens.tolist()) == ("runtime/session-7", TOKENS)
    assert document.tokens.dtype == np.int32
    assert document.placement.split in ("train", "validation", "test")


def test_rows_of_one_document_share_it_and_their_order_is_kept(tmp_path, empty_store):
    later = good_row(cursors=[80, 96], document_id=IDENTITY)
    other = good_row(tokens=random_tokens(150, seed=5).tolist(), start=0, levels=[0] * 10, cursors=[38])
    found = plan(write(tmp_path, good_row(), later, other), empty_store)
    assert [p.trajectory.cursors for p in found.units] == [(80, 84, 91), (80, 96), (38,)]
    assert [p.document_id for p in found.units] == [IDENTITY, IDENTITY, list(found.documents)[1]]
    assert len(found.documents) == 2


def test_a_row_that_is_there_twice_is_measured_once(tmp_path, empty_store):
    found = plan(write(tmp_path, good_row(), good_row()), empty_store)
    assert len(found.units) == len({p.part_id for p in found.units}) == 1


def test_a_row_may_name_a_document_of_the_store_instead_of_its_tokens(tmp_path, store):
    document = make_document(200, seed=3)
    commit_document(store, document)
    row = good_row(tokens=None, document_id=document.document_id)
    found = plan(write(tmp_path, row), store).documents[document.document_id]
    assert found.tokens.tolist() == document.tokens.tolist()
    assert (found.source, found.placement.split) == (document.source, "validation")


def test_a_document_of_the_store_keeps_its_split_when_a_row_brings_its_tokens(tmp_path, store):
    document = make_document(200, seed=3)
    commit_document(store, document)
    found = plan(write(tmp_path, good_row(tokens=document.tokens.tolist())), store)
    assert found.documents[document.document_id].placement.split == "validation"


def test_a_near_duplicate_of_a_document_of_the_store_gets_its_split(tmp_path, store):
    document = make_document(200, seed=3)
    placement = SplitAssigner(CorpusConfig(), {}).place(document.document_id, document.tokens)
    commit_document(store, Document(document.document_id, "a.txt", document.tokens, "tokenizer", placement))
    tokens = document.tokens.tolist()
    tokens[100] = 1
    (found,) = plan(write(tmp_path, good_row(tokens=tokens)), store).documents.values()
    assert found.document_id != document.document_id
    assert (found.placement.split_group, found.placement.split) == (document.document_id, "validation")


def test_without_a_store_rows_bring_their_own_tokens(tmp_path):
    assert len(plan(write(tmp_path, good_row()), None).units) == 1
    reasons = rejected(write(tmp_path, good_row(tokens=None, document_id=IDENTITY)), None)
    assert "is not in the store and the row has no tokens" in reasons[0]


def test_columns_beyond_the_documented_ones_are_passed_over(tmp_path, empty_store):
    table = pa.Table.from_pylist([good_row()], schema=TRACES).append_column("score", pa.array([0.5]))
    pq.write_table(table, tmp_path / "more.parquet")
    assert len(plan(tmp_path / "more.parquet", empty_store).units) == 1


def test_wider_integer_columns_are_taken_when_their_values_fit(tmp_path, empty_store):
    assert len(plan(write(tmp_path, good_row(), types=OTHER_TYPES), empty_store).units) == 1


BAD_ROWS: dict[str, tuple[dict[str, object], str]] = {
    "another tokenizer": ({"tokenizer_hash": "words"}, "tokenizer_hash 'words' is not the base model's"),
    "no tokenizer": ({"tokenizer_hash": None}, "tokenizer_hash None is not the base model's"),
    "neither tokens nor id": ({"tokens": None}, "not in the store and the row has no tokens"),
    "unknown id": ({"tokens": None, "document_id": "x"}, "document_id 'x' is not in the store"),
    "id of other tokens": ({"document_id": "x"}, f"'x' does not match its tokens .{IDENTITY}"),
    "no token": ({"tokens": []}, "tokens must be non-negative token ids"),
    "a negative token": ({"tokens": [1, -2, 3]}, "tokens must be non-negative token ids"),
    "a token that is null": ({"tokens": [1, None, 3]}, "token"),
    "a token that is too large": ({"tokens": [1, 2**40]}, "1099511627776"),
    "another block size": ({"block_size": 32}, "block_size is 32, tree.block_size is 4"),
    "no block size": ({"block_size": None}, "block_size is None"),
    "no cursor": ({"cursors": []}, "cursors is empty"),
    "null cursors": ({"cursors": None}, "cursors is empty"),
    "cursors out of order": ({"cursors": [80, 91, 84]}, "cursors must increase strictly"),
    "a horizon beyond the document": (
        {"cursors": [80, 185]},
        "last cursor 185 and a horizon of 16 reach beyond the document's 200 tokens",
    ),
    "a start inside a block": ({"start": 18}, "start must be a multiple of block_size 4"),
    "a negative start": ({"start": -4}, "not negative"),
    "a start after the cursor": ({"start": 84}, "the cursor must lie after the start"),
    "too few levels": ({"levels": LEVELS[:-1]}, "one level for each of its 16 blocks, got 15"),
    "a level that does not exist": ({"levels": [*LEVELS[:-1], 3]}, "level 3 does not exist"),
    "half a node": (
        {"levels": [2, 2, 1, 1, *LEVELS[4:]]},
        r"node \(level 2, index 1\) is only partly at its level",
    ),
    "a level too large for a byte": ({"levels": [*LEVELS[:-1], 300]}, "300"),
    "a negative level": ({"levels": [*LEVELS[:-1], -1]}, "-1"),
}


@pytest.mark.parametrize(("changes", "why"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_a_bad_row_is_rejected_with_its_number_and_reason_and_the_others_are_taken(
    tmp_path, empty_store, changes, why
):
    path = write(tmp_path, good_row(), good_row(**changes), good_row(cursors=[80, 96]), types=OTHER_TYPES)
    found = plan_traces(path, empty_store, small_config(), CorpusConfig(), PROVENANCE)
    assert [p.trajectory.cursors for p in found.plan.units] == [(80, 84, 91), (80, 96)]
    assert list(found.plan.documents) == [IDENTITY]
    (bad,) = found.rejected
    assert (bad.row, found.num_rows) == (1, 3)
    assert re.search(why, bad.reason)


def test_rejected_rows_are_listed_in_a_side_file(tmp_path, empty_store):
    path = write(tmp_path, good_row(block_size=32), good_row(), good_row(cursors=[], source="späť"))
    found = plan_traces(path, empty_store, small_config(), CorpusConfig(), PROVENANCE)
    found.write_rejected(tmp_path / "rejected.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text("utf-8").splitlines()]
    assert [(line["row"], line["source"]) for line in lines] == [(0, "runtime/session-7"), (2, "späť")]
    assert lines[1]["reason"] == "cursors is empty"


def test_the_document_of_a_rejected_row_does_not_affect_splits(tmp_path, empty_store):
    tokens = random_tokens(200, seed=9).tolist()
    near = [*tokens[:-1], 1]
    path = write(tmp_path, good_row(tokens=tokens, block_size=32), good_row(tokens=near))
    (document,) = plan_traces(
        path, empty_store, small_config(), CorpusConfig(), PROVENANCE
    ).plan.documents.values()
    assert document.placement.split_group == document.document_id


@pytest.mark.parametrize("column", ["start", "levels"])
def test_a_missing_value_is_named_by_its_column(tmp_path, empty_store, column):
    assert column in rejected(write(tmp_path, good_row(**{column: None})), empty_store)[0]


def test_numbers_with_a_fraction_are_not_cut_to_integers(tmp_path, empty_store):
    levels = [level + 0.5 for level in LEVELS]
    path = write(tmp_path, good_row(levels=levels), types={"levels": pa.list_(pa.float64())})
    with pytest.raises(InputError, match="levels"):
        plan(path, empty_store)
    path = write(tmp_path, good_row(cursors=[80.0, 84.5]), types={"cursors": pa.list_(pa.float64())})
    with pytest.raises(InputError, match="cursors"):
        plan(path, empty_store)


def test_a_document_of_the_store_made_with_another_tokenizer_is_refused(tmp_path, store):
    document = make_document(200, seed=3, tokenizer_hash="words")
    commit_document(store, document)
    row = good_row(tokens=None, document_id=document.document_id)
    assert "words" in rejected(write(tmp_path, row), store)[0]


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path, empty_store):
    with pytest.raises(InputError, match=r"absent\.parquet does not exist"):
        plan(tmp_path / "absent.parquet", empty_store)
    (tmp_path / "text.parquet").write_text("source,tokens\n")
    with pytest.raises(InputError, match=r"text\.parquet is not readable Parquet"):
        plan(tmp_path / "text.parquet", empty_store)


def test_a_file_without_the_columns_is_refused_with_their_names(tmp_path, empty_store):
    table = pa.Table.from_pylist([good_row()], schema=TRACES).drop_columns(["levels", "cursors"])
    pq.write_table(table, tmp_path / "less.parquet")
    with pytest.raises(InputError, match="lacks the columns levels, cursors"):
        plan(tmp_path / "less.parquet", empty_store)


def test_a_file_without_rows_is_refused(tmp_path, empty_store):
    with pytest.raises(InputError, match="has no rows"):
        plan(write(tmp_path), empty_store)


LISTS = pa.list_(pa.int64())
MALFORMED = {
    "a list of lists": ("tokens", pa.array([[[1]]])),
    "a list of structs": ("levels", pa.array([[{"a": 1}]])),
    "bytes for text": ("tokenizer_hash", pa.array([b"tokenizer"])),
    "a column of nulls": ("levels", pa.nulls(1)),
    "levels below 0": ("levels", pa.array([[-1] * 16], LISTS)),
    "levels beyond a byte": ("levels", pa.array([[300] * 16], LISTS)),
    "no levels": ("levels", pa.array([[]], LISTS)),
    "a million levels": ("levels", pa.array([np.zeros(10**6, np.uint8)])),
    "a cursor beyond 64 bits": ("cursors", pa.array([[2**64 - 1]], pa.list_(pa.uint64()))),
    "a cursor before the text": ("cursors", pa.array([[-5]], LISTS)),
    "a start beyond 64 bits": ("start", pa.array([2**64 - 1], pa.uint64())),
    "a start before the text": ("start", pa.array([-16])),
    "a start that is no number": ("start", pa.array([float("nan")])),
    "a start as text": ("start", pa.array(["16"])),
    "a start as a decimal": ("start", pa.array([16]).cast(pa.decimal128(20, 0))),
    "a block of nothing": ("block_size", pa.array([0], pa.int32())),
    "tokens beyond 32 bits": ("tokens", pa.array([[2**40] * 200], LISTS)),
    "tokens below 0": ("tokens", pa.array([[-1] * 200], LISTS)),
    "tokens of nulls": ("tokens", pa.array([[None] * 200], LISTS)),
    "no tokens": ("tokens", pa.array([[]], LISTS)),
}


def columns(**changes: pa.Array) -> dict[str, pa.Array]:
    row = good_row()
    return {f.name: pa.array([row[f.name]], f.type) for f in TRACES} | changes


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_table_is_one_line_or_a_rejected_row(tmp_path, what):
    name, values = MALFORMED[what]
    pq.write_table(pa.table(columns(**{name: values})), tmp_path / "traces.parquet")
    said, trajectories = outcome(tmp_path / "traces.parquet")
    assert len(said) == 1
    assert trajectories == ()


def outcome(path: Path) -> tuple[list[str], tuple[WorkUnit, ...]]:
    """What is said of a file, one line each, and what of it is measured."""
    try:
        found = plan_traces(path, None, small_config(), CorpusConfig(), PROVENANCE)
    except InputError as error:
        return str(error).splitlines(), ()
    return [row.reason for row in found.rejected], found.plan.units


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    table = pa.table(columns())
    pq.write_table(table.append_column("start", table["start"]), tmp_path / "traces.parquet")
    with pytest.raises(InputError, match="the columns start more than once"):
        rejected(tmp_path / "traces.parquet", None)


def test_a_trace_file_with_a_flipped_bit_is_a_plan_rejected_rows_or_one_line(tmp_path):
    chance, file = random.Random(1), tmp_path / "traces.parquet"
    pq.write_table(pa.table(columns()), file)
    content, refused = file.read_bytes(), 0
    for bit in chance.sample(range(8 * len(content)), 150):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        said, trajectories = outcome(file)
        assert len(said) + len(trajectories) == 1
        refused += len(said)
    assert refused > 20
