"""What `verify` reports of rows and files, one problem at a time."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mctrace.datasets.store.parts import write_part
from mctrace.datasets.store.schemas import TABLES
from mctrace.datasets.store.store import create_store
from mctrace.datasets.upkeep.verify import Problem, leave_out_damaged, verify
from mctrace.progress import Silent
from tests.datasets.making import effect_row, trajectory_row


def problems(store, *, quick: bool = False) -> list[Problem]:
    return list(verify(store.at(), quick=quick, progress=Silent()))


def add(store, kind: str, tables: dict[str, list[dict]]):
    part = write_part(store.location, part_id=f"added-{kind}", kind=kind, run_id="run", tables=tables)
    store.commit([part])
    return part


TRAJECTORY = trajectory_row("t", [0, 0, 0, 0], [16])
EFFECT = effect_row("t", "expand", 1, 0, first_token=16, delta_nll=[0.1] * 4)


def good(**tables: list[dict]) -> dict[str, list[dict]]:
    return {"trajectories": [TRAJECTORY], "effects": [EFFECT], **tables}


def test_a_table_that_two_drivers_created_is_no_problem(tmp_path):
    store = create_store(str(tmp_path / "store"))
    log = tmp_path / "store/ledger/_delta_log"
    (log / f"{1:020}.json").write_bytes((log / f"{0:020}.json").read_bytes())
    add(store, "vocabulary", {"vocabulary": []})
    assert store.ledger.version() == 2
    assert problems(store) == []


def test_a_whole_store_has_no_problem(store):
    add(store, "trajectory", good())
    assert problems(store) == []


ROWS = {
    "effects without their trajectory": ("drops", {"effects": [EFFECT]}),
    "effects with the wrong number of tokens": (
        "trajectory",
        good(effects=[{**EFFECT, "delta_nll": [0.1] * 3}]),
    ),
    "effects whose means are not those of their tokens": (
        "trajectory",
        good(effects=[{**EFFECT, "cursor_delta_nll": [0.2], "cursor_stderr": [0.0]}]),
    ),
    "effects with values that are not finite": (
        "trajectory",
        good(effects=[{**EFFECT, "delta_nll": [0.1, float("nan"), 0.1, 0.1]}]),
    ),
    "effects whose status and value disagree": (
        "trajectory",
        good(effects=[{**EFFECT, "status": "non_finite"}]),
    ),
    "effects with an impossible inclusion probability": (
        "trajectory",
        good(effects=[{**EFFECT, "inclusion_probability": 1.5}]),
    ),
    "joint effects without their trajectory": ("joints", {"joint_effects": [{"trajectory_id": "t"}]}),
    "joint effects with values that are not finite": (
        "trajectory",
        good(joint_effects=[{"trajectory_id": "t", "delta_nll": [float("inf")], "status": "ok"}]),
    ),
    "attention without its trajectory": ("attention", {"attention": [{"trajectory_id": "t"}]}),
    "trajectories with a baseline that is no loss": (
        "trajectory",
        good(trajectories=[{**TRAJECTORY, "baseline_nll": [-1.0] * 4}]),
    ),
    "trajectories with cursors out of order or beyond their document": (
        "trajectory",
        good(trajectories=[{**TRAJECTORY, "cursors": [64], "baseline_nll": [1.0] * 4}], effects=[]),
    ),
    "trajectories that are there twice": ("trajectory", good(trajectories=[TRAJECTORY] * 2, effects=[])),
}


@pytest.mark.parametrize("what", ROWS)
def test_rows_that_contradict_each_other_are_reported_with_an_example(store, what):
    add(store, *ROWS[what])
    found = problems(store)
    assert any(f" {what}, e.g. t" in problem.what for problem in found), found
    assert {problem.place for problem in found} == {"tables"}
    assert problems(store, quick=True) == []


def missing(file: Path) -> None:
    file.unlink()


def longer(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"x")


def altered(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[10] ^= 1
    file.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("damage", "what", "seen_by_quick"),
    [
        (missing, "is missing", True),
        (longer, "bytes, the ledger says", True),
        (altered, "has other content than the ledger's sha256 says", False),
    ],
)
def test_a_damaged_file_is_named_and_its_part_left_out(store, damage, what, seen_by_quick):
    part = add(store, "trajectory", good())
    place = f"{part.folder}/effects.parquet"
    damage(Path(store.location.root) / place)
    (problem,) = problems(store)
    assert problem.place == place
    assert what in problem.what
    assert bool(problems(store, quick=True)) == seen_by_quick
    version, damaged = leave_out_damaged(store.at(), Silent())
    assert [one.part_id for one in damaged] == [part.part_id]
    assert part.part_id not in version.part_ids
    assert len(version.parts) == len(store.at().parts) - 1


def test_a_table_of_another_schema_or_number_of_rows_is_named(store, tmp_path):
    file = tmp_path / "effects.parquet"
    table = pa.Table.from_pylist([EFFECT], schema=TABLES["effects"])
    pq.write_table(table.drop_columns(["status"]).append_column("colour", pa.array(["red"])), file)
    add(store, "trajectory", {**good(), "effects": file})  # type: ignore[dict-item]
    assert [problem.what for problem in problems(store, quick=True)] == ["has another schema: colour, status"]
