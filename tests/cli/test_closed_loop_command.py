"""`mctrace evaluate --closed-loop`: one JSON object, a table, reused rows, and clear errors."""

import asyncio
import json
from pathlib import Path

import pytest

from mctrace.base_model.model_source import resolve_model
from mctrace.cli.configuration import load_config
from mctrace.collect.planning.run_plan import provenance_of
from mctrace.context.tree import TreeShape
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store.store import open_store
from tests.cli.flags import set_flags
from tests.collect.lensnets import save_random_lensnet

LOOP = {
    "closed_loop.w_max": 48,
    "closed_loop.window": 128,
    "closed_loop.refocuses": 2,
    "closed_loop.horizon": 8,
    "closed_loop.max_candidates": 6,
    "closed_loop.documents": 2,
}


@pytest.fixture
def run(monkeypatch, call_mctrace, tiny_settings):
    """Runs a command in this process and folder, and returns (exit code, output, errors)."""

    def run(
        folder: Path, *arguments: str, command: str = "evaluate", **changes: object
    ) -> tuple[int, str, str]:
        monkeypatch.chdir(folder)
        return call_mctrace(command, *arguments, *set_flags({**tiny_settings, **LOOP, **changes}))

    return run


@pytest.fixture
def checkpoint(tmp_path, tiny_settings) -> Path:
    config = load_config(None, (), dict(tiny_settings), {})
    source = resolve_model(config.model.name)
    provenance = provenance_of(source, config.model, config.gists, TreeShape(4, 2))
    return save_random_lensnet(tmp_path / "runs" / "lens" / "best", provenance, source.embedding_dim)


def test_policies_and_a_checkpoint_in_one_table_and_nothing_runs_twice(run, tmp_path, checkpoint):
    code, out, err = run(tmp_path, "runs/lens/best", "--closed-loop", "--json")
    assert code == 0, err
    answer = json.loads(out)
    (group,) = answer["groups"].values()
    assert set(group) == {
        "full",
        "lod0",
        "recency",
        "random",
        "attention",
        "similarity",
        "words",
        "told",
        "hindsight",
        "lens",
    }
    assert group["hindsight"]["share_of_hindsight"]["mean"] == 1.0
    assert group["recency"]["less_than_recency"]["mean"] == 0.0
    assert answer["num_documents"] == group["lens"]["nll"]["num_documents"] == 2
    folder = tmp_path / "runs" / "lens"
    assert json.loads((folder / "closed_loop.json").read_text()) == answer
    rows = (folder / "closed_loop.jsonl").read_bytes()
    assert rows.count(b"\n") == 20

    # A run killed in the middle of the last line.
    (folder / "closed_loop.jsonl").write_bytes(rows[:-30])
    code, out, _ = run(tmp_path, "runs/lens/best", "--closed-loop")
    assert code == 0
    assert "better than recency" in out
    assert "lens" in out
    again = (folder / "closed_loop.jsonl").read_bytes()
    lines, lines_again = rows.splitlines(), again.splitlines()
    assert lines_again[:-1] == lines[:-1]
    last, last_again = json.loads(lines[-1]), json.loads(lines_again[-1])
    assert [step["nll"] for step in last_again["refocuses"]] == [step["nll"] for step in last["refocuses"]]


def test_other_conditions_are_other_rows(run, tmp_path):
    few = {"closed_loop.policies": ("recency",), "closed_loop.documents": 1}
    assert run(tmp_path, "--closed-loop", "--out", "here", **few)[0] == 0
    assert run(tmp_path, "--closed-loop", "--out", "here", **few, **{"closed_loop.w_max": 52})[0] == 0
    rows = tmp_path / "here" / "closed_loop.jsonl"
    assert len(rows.read_text().splitlines()) == 2

    # A broken line that is not the last one of a killed run.
    for broken in (b'{"key": "a', b'{"key": "\xff"}', b'{"key": "a"}', b"[]"):
        rows.write_bytes(rows.read_bytes().splitlines()[0] + b"\n" + broken + b"\n")
        code, _, err = run(tmp_path, "--closed-loop", "--out", "here", **few)
        assert code == 1
        assert "here/closed_loop.jsonl, line 2, is no row of a closed loop: take the line out" in err
        assert "Traceback" not in err


def test_documents_that_were_skipped_are_left_to_the_first_loop(run, tmp_path):
    """A corpus that cannot fill its share is made up for in the same way in both loops."""
    corpora = [part for module in (json, asyncio) for part in ("--corpus", str(Path(module.__file__).parent))]
    met = {}
    for name, documents, skip in (("both", 5, 0), ("first", 3, 0), ("fresh", 2, 3)):
        settings = {"closed_loop.documents": documents, "closed_loop.skip": skip}
        settings["closed_loop.policies"] = ("recency",)
        code, _, err = run(tmp_path, "--closed-loop", "--out", name, *corpora, **settings)
        assert code == 0, err
        rows = (tmp_path / name / "closed_loop.jsonl").read_text().splitlines()
        met[name] = {json.loads(row)["document_id"] for row in rows}
    assert [len(found) for found in met.values()] == [5, 3, 2]
    assert met["first"] | met["fresh"] == met["both"]

    everything = {"closed_loop.policies": ("recency",), "closed_loop.skip": 100_000}
    code, _, err = run(tmp_path, "--closed-loop", *corpora, **everything)
    assert code == 1
    assert "left out by closed_loop.skip" in err


def test_on_policy_labels_are_collected_with_a_checkpoint(run, tmp_path, checkpoint):
    settings = {"collect.policies": ("lensnet",), "corpus.limit": 4, "collect.trajectories_per_document": 1}
    led = {**settings, "collect.lensnet_checkpoint": str(checkpoint)}
    loop, rebalanced = ({**led, key: True} for key in ("closed_loop.rebalance", "collect.lensnet_rebalance"))
    code, out, err = run(tmp_path, "--no-ray", command="collect", **led)
    assert code == 0, err
    query = "select distinct policy, len(cursors) as cursors from trajectories"
    rows = fetch_rows(connect(open_store(str(tmp_path / "traces")).at()), query)
    assert rows == [{"policy": "lensnet", "cursors": 1}]
    code, out, _ = run(tmp_path, "--no-ray", command="collect", **led)
    assert "Nothing to measure" in out
    # The closed loop has its own key for rebalancing; the policy's is another.
    assert "Nothing to measure" in run(tmp_path, "--no-ray", command="collect", **loop)[1]
    code, out, _ = run(tmp_path, command="plan", **rebalanced)
    assert code == 0
    assert "Nothing to measure" not in out
    code, _, err = run(tmp_path, "--no-ray", command="collect", **settings)
    assert code == 1
    assert "collect.lensnet_checkpoint" in err


@pytest.mark.parametrize(
    ("arguments", "changes", "message"),
    [
        ([], {}, "no checkpoint to judge"),
        (["--closed-loop"], {"closed_loop.w_max": 4000}, "long enough for a closed loop"),
        (["--closed-loop"], {"closed_loop.policies": ("recency", "fortune")}, "closed_loop.policies"),
        (["--closed-loop", "nowhere"], {}, "not a LensNet checkpoint"),
        (["--closed-loop", "--version", "0"], {}, "--version: only for judging by the store's labels"),
        (
            ["--closed-loop", "--dataset", "x", "--where", "true"],
            {},
            "--dataset and --where: only for judging",
        ),
        (["--closed-loop", "--mix", "gists", "--skip-damaged"], {}, "--mix and --skip-damaged: only for"),
        (["nowhere", "--corpus", "stdlib"], {}, "--corpus: only for --closed-loop"),
        (["nowhere", "--model", "m", "--out", "x"], {}, "--model and --out: only for --closed-loop"),
        (["nowhere", "--dtype", "float32", "--device", "cpu"], {}, "--dtype and --device: only for --closed"),
        (["--closed-loop"], {"closed_loop.w_max": 20}, "at their coarsest"),
    ],
)
def test_mistakes_end_in_one_clear_line(run, tmp_path, arguments, changes, message):
    code, out, err = run(tmp_path, *arguments, **changes)
    assert code == 1
    assert message in err
    assert "Traceback" not in err
    assert "NLL" not in out


def test_a_split_that_there_is_not_is_a_mistake_of_the_command_line(run, tmp_path):
    code, _, err = run(tmp_path, "--closed-loop", "--split", "exam")
    assert code == 2
    assert "'--split'" in err
    assert "'validation'" in err
