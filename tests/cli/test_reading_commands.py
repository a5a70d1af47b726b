"""Flags that reading commands share (--skip-damaged, --mix, --version), and `mctrace export`."""

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import typer

from mctrace.cli import app
from mctrace.datasets.sql.notebook import open_traces
from mctrace.datasets.store.store import DAMAGE_REMEDY
from tests.datasets.synthetic import (
    EFFECTS,
    add_document,
    add_other_gists,
    add_trajectory,
    add_vocabulary,
    synthetic_store,
)


@pytest.fixture
def store(tmp_path):
    return synthetic_store(tmp_path)


@pytest.fixture
def run(store, tmp_path, monkeypatch, call_mctrace):
    """Runs a command on the store in this process and returns (exit code, output, errors)."""
    monkeypatch.chdir(tmp_path)

    def run(command: str, *arguments: str) -> tuple[int, str, str]:
        return call_mctrace(command, "--store", store.location.uri, *arguments)

    return run


SMALL = (
    "--preset",
    "small",
    "--set",
    "train.optimiser.total_steps=2",
    "--set",
    "train.optimiser.warmup_steps=1",
)


def damage(store, part_id: str, name: str) -> Path:
    part = next(c.part for c in store.at().parts if c.part.part_id == part_id)
    file = Path(store.location.root) / part.folder / name
    file.write_bytes(file.read_bytes()[:-9])
    return file


def test_a_damaged_part_stops_reading_until_it_is_asked_to_be_left_out(run, store):
    damage(store, "tb", "effects.parquet")
    query = "select count(distinct trajectory_id) as n from labels"
    code, _, err = run("sql", query)
    assert code == 1
    assert "--skip-damaged" in err
    code, out, err = run("sql", "--format", "json", "--skip-damaged", query)
    assert (code, json.loads(out)) == (0, [{"n": 2}])
    assert "1 damaged part(s), parts/trajectory/tb/tb-" in err
    assert run("report", "--skip-damaged")[0] == 0
    assert run("export", "out", "--skip-damaged")[0] == 0
    assert run("verify")[0] == 1


def test_damaged_parts_are_withdrawn_only_from_the_newest_version_and_after_every_byte_was_read(run, store):
    damage(store, "tb", "effects.parquet")
    for flag in ("--quick", "--version=3"):
        code, _, err = run("verify", "--withdraw", flag)
        assert code == 1
        assert flag.split("=")[0] in err
    code, out, err = run("verify", "--withdraw")
    assert code == 1
    assert "effects.parquet" in out
    assert "withdrew 1 trajectory" in err
    assert run("verify")[0] == 0
    assert "withdrew 1 trajectory" in run("log", "--versions")[1]


def test_the_log_is_read_around_damage_too(run, store):
    damage(store, "tb", "trajectories.parquet")
    code, _, err = run("log")
    assert code == 1
    assert "log" in err
    assert "--skip-damaged" in err
    code, out, err = run("log", "--skip-damaged")
    assert code == 0
    assert "2 trajectories" in out
    assert "1 damaged part(s)" in err
    assert run("log", "--versions", "--skip-damaged")[0] == 0


def test_every_command_that_is_said_to_read_around_damage_does():
    (named,) = re.findall(r"copy; (.*) read around", DAMAGE_REMEDY)
    commands = typer.main.get_command(app.app).commands
    able = {
        name
        for name, command in commands.items()
        if any("--skip-damaged" in parameter.opts for parameter in command.params)
    }
    assert set(re.findall(r"\w+", named)) - {"and"} == able


def test_training_goes_around_a_damaged_document(run, store, tmp_path):
    add_document(store, "d", "train", 5)
    add_trajectory(store, "td", "d", EFFECTS)
    damage(store, "document-a", "arrays.zarr/gists/lod1/c/0/0")
    code, _, err = run("train", *SMALL, "--out", "run")
    assert code == 1
    assert "--skip-damaged" in err
    code, _, err = run("train", *SMALL, "--out", "run", "--skip-damaged")
    assert code == 0, err
    assert run("evaluate", "run/best", "--json", "--skip-damaged")[0] == 0


def test_a_mixture_is_trained_on_when_it_is_named(run, store, tmp_path):
    add_other_gists(store)
    code, _, err = run("train", *SMALL, "--out", "run")
    assert code == 1
    assert "--mix gists" in err
    code, _, err = run("train", *SMALL, "--out", "run", "--mix", "gists")
    assert code == 0, err
    assert json.loads((tmp_path / "run/best/config.json").read_text())["dataset"]["gist_hash"] == "mean+other"
    code, out, err = run("evaluate", "run/best", "--split", "train", "--json")
    assert code == 0, err
    assert "judged on a mixture, as it was learned from: model model gists mean" in err
    assert [kind["gist_hash"] for kind in json.loads(out)["kinds"]] == ["mean", "other"]
    assert run("report", "--run", "run", "--checkpoint", "run/best")[0] == 0
    assert run("show", "other", "--checkpoint", "run/best")[0] == 0
    code, _, err = run("train", *SMALL, "--out", "other", "--mix", "weights")
    assert code == 1
    assert "store.mix" in err


def test_a_checkpoint_is_judged_on_kinds_that_it_learned_from_alone(run, store):
    assert run("train", *SMALL, "--out", "run")[0] == 0
    add_other_gists(store)
    where = ("evaluate", "run/best", "--split", "train", "--where")
    assert run(*where, "gist_hash = 'mean'")[0] == 0
    refusals = [
        run(*where, "gist_hash = 'other'"),
        run(*where, "true", "--mix", "gists"),
        run("show", "other", "--checkpoint", "run/best"),
    ]
    for code, _, err in refusals:
        assert code == 1
        assert "run/best was trained on labels of another GistNet than" in err
        assert "gists mean K=4 max_level=2; here model model gists other" in err


def test_export_at_a_version(run, store, tmp_path):
    version = store.at().version
    add_trajectory(store, "td", "a", EFFECTS)
    code, out, _ = run(
        "export", "out", "--version", str(version), "--target", "literal", "--where", "cursor = 32"
    )
    assert code == 0
    assert "snapshots: 1 train, 1 validation, 1 test" in out
    about = json.loads((tmp_path / "out/mctrace-export.json").read_text())
    assert [target["column"] for target in about["targets"]] == ["utility_literal"]
    assert "--overwrite" in run("export", "out")[2]
    code, out, _ = run("export", "out", "--overwrite", "--format", "hf")
    assert "3 train" not in out
    assert "snapshots: 4 train" in out


def test_text_comes_from_the_store_alone(run, store):
    code, _, err = run("export", "out", "--text")
    assert code == 1
    assert "does not say what the ids of tokenizer" in err
    add_vocabulary(store)
    assert run("export", "out", "--text")[0] == 0


def test_log_and_sweep_take_their_flags(run, store):
    version = store.at().version
    add_trajectory(store, "td", "a", EFFECTS)
    assert "4 trajectories" in run("log")[1]
    assert "3 trajectories" in run("log", "--version", str(version))[1]
    assert len(run("log", "--versions", "--version", "1")[1].splitlines()) == 3
    assert "swept 0 folders" in run("verify", "--sweep", "--grace", "0.5")[1]


def test_export_and_report_read_through_a_derived_dataset(run, tmp_path):
    assert run("derive", "sure", "--recipe", "significant", "--var", "z=1")[0] == 0
    assert run("export", "all")[0] == run("export", "sure", "--dataset", "sure")[0] == 0
    both = [sum(len(a) for a in _column(tmp_path / name, "action")) for name in ("all", "sure")]
    assert 0 < both[1] < both[0]
    code, out, err = run("report", "--dataset", "sure", "--out", "sure.html")
    assert (code, "wrote" in out) == (0, True), err
    assert "no dataset 'none'" in run("report", "--dataset", "none")[2]


def _column(folder: Path, name: str) -> list[list[str]]:
    files = sorted((folder / "snapshots").glob("*.parquet"))
    return [value for file in files for value in pq.read_table(file)[name].to_pylist()]


def test_an_empty_split_names_those_that_have_snapshots(run, store):
    assert run("train", *SMALL, "--out", "run")[0] == 0
    recipe = Path("no_test.sql")
    recipe.write_text("select * from labels where split <> 'test'")
    assert run("derive", "rest", "--recipe", str(recipe))[0] == 0
    code, _, err = run("evaluate", "run/best", "--dataset", "rest")
    assert code == 1
    assert "the test split" in err
    assert re.search(r"\(train has \d+", err)


def test_short_flags_quiet_and_completion(run, call_mctrace, monkeypatch):
    assert call_mctrace("-V") == call_mctrace("--version")
    assert "--quiet" in call_mctrace("log", "-h")[1]
    assert "verifying" in run("verify")[1]
    assert "verifying" not in run("verify", "--quiet")[1]
    assert "Traceback" in run("sql", "selec", "-v")[2]
    assert "one of them" in run("log", "-q", "-v")[2]
    for shell in ("bash", "zsh", "fish"):
        monkeypatch.setattr("typer.completion._get_shell_name", lambda shell=shell: shell)
        assert "mctrace" in call_mctrace("--show-completion")[1]


def test_a_store_in_a_notebook_prints_as_one_line(store):
    shown = repr(open_traces(store.location.uri))
    assert re.fullmatch(r"<Traces \S+ at version \d+: 3 documents, 3 trajectories, 12 effects>", shown)
    assert len(repr(store.at())) < 500
