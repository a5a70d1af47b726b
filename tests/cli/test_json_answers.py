"""`--json`: one object on standard output, whose keys are those of docs/command-line.md."""

import json
from pathlib import Path

import pytest

from tests.cli.documented_answers import DOCUMENTED
from tests.cli.flags import set_flags


@pytest.fixture
def answer(tmp_path, monkeypatch, call_mctrace):
    monkeypatch.chdir(tmp_path)

    def answer(command: str, *arguments: str, code: int = 0) -> dict[str, object]:
        found, out, err = call_mctrace(*command.split(), *arguments, "--store", "traces", "--json")
        assert found == code, err
        assert out.count("\n") == 1
        answered: dict[str, object] = json.loads(out)
        assert set(answered) == DOCUMENTED[command]
        return answered

    return answer


def test_every_command_says_what_is_documented(answer, tiny_settings, tmp_path):
    few = [*set_flags(tiny_settings), "--limit", "8"]
    planned = answer("plan", *few)
    assert (planned["num_done"], planned["within_hours"]) == (0, None)
    within = answer("plan", *few, "--hours", "0.001")["within_hours"]
    assert within["hours"] == 0.001
    collected = answer("collect", "--no-ray", *few)
    assert collected["num_trajectories"] == planned["num_trajectories"]
    assert collected["num_effects"] == planned["forecast"]["num_effects"]
    again = answer("collect", "--no-ray", *few)
    assert again["run_id"] is None
    assert answer("plan", *few)["forecast"] is None

    (run,) = answer("log")["runs"]
    assert (run["run_id"], run["state"], run["last_sign"]) == (collected["run_id"], "finished", None)
    assert run["num_effects"] == collected["num_effects"]
    assert answer("log --versions")["versions"][-1]["version"] == collected["version"]

    derived = answer("derive", "sure", "--recipe", "significant")
    assert (derived["is_new"], derived["parent_version"]) == (True, collected["version"])
    assert answer("log")["datasets"][0]["name"] == "sure"
    steps = set_flags({"train.optimiser.total_steps": 2, "train.optimiser.warmup_steps": 1})
    trained = answer("train", "--preset", "small", "--device", "cpu", *steps, "--out", "run")
    assert trained["num_steps"] == 2
    assert Path(str(trained["checkpoint"])).is_dir()
    exported = answer("export", "exported")
    assert exported["num_rows"]["snapshots"]["train"] > 0
    written = answer("report", "--out", "report.html")
    assert written["num_bytes"] == Path("report.html").stat().st_size
    assert answer("compact")["num_made"] > 0

    assert answer("verify")["is_whole"] is True
    parts = tmp_path.glob("traces/parts/trajectory/*/*/effects.parquet")
    max(parts, key=lambda file: file.stat().st_mtime).unlink()  # the compacted one
    damaged = answer("verify", code=1)
    assert (damaged["is_whole"], len(damaged["problems"])) == (False, 1)
