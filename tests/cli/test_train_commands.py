"""`mctrace train` and `mctrace evaluate` from a store alone: every objective, selections, and mistakes."""

import json
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mctrace.datasets.store.parts import write_part
from mctrace.datasets.store.store import open_store
from tests.train.stores import learnable_store

SMALL = {
    "train.batch_size": 4, "train.eval_interval": 30, "train.save_interval": 60, "train.log_interval": 20,
    "train.network.d_lens": 16, "train.network.num_heads": 2, "train.network.dropout": 0.0,
    "train.optimiser.learning_rate": 3e-3, "train.optimiser.warmup_steps": 5,
    "train.optimiser.total_steps": 60,
}  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch, call_mctrace):
    """Runs a command in this process and returns (exit code, output, errors)."""
    monkeypatch.chdir(tmp_path)
    return call_mctrace


@pytest.fixture
def train(run):
    def train(*arguments: str, **settings: object) -> tuple[int, str, str]:
        given = {**SMALL, **{key.replace("__", "."): value for key, value in settings.items()}}
        sets = [part for key, value in given.items() for part in ("--set", f"{key}={json.dumps(value)}")]
        return run("train", *sets, *arguments)

    return train


def succeeded(answer: tuple[int, str, str]) -> str:
    code, out, err = answer
    assert code == 0, out + err
    return out


def refused(answer: tuple[int, str, str], *words: str) -> None:
    code, _, err = answer
    assert code != 0
    assert "Traceback" not in err
    for word in words:
        assert word in err


def judged(run, *folders: str, split: str = "validation") -> dict:
    return json.loads(succeeded(run("evaluate", *folders, "--split", split, "--json")))


def test_labels_are_learned_and_beat_noise(run, train, tmp_path):
    learnable_store(tmp_path / "traces")
    succeeded(train(train__optimiser__total_steps=150))
    answer = judged(run, "runs/lensnet/best")
    found = {name: scorer["utility_correlation"]["mean"] for name, scorer in answer["scorers"].items()}
    assert set(found) == {"lensnet", "ridge", "recency", "noise"}
    assert found["lensnet"] > found["noise"] + 0.2
    assert found["ridge"] > found["noise"] + 0.2  # what is worth something is linear in the gist
    assert {"kendall_tau", "score_delta_nll_expand_min"} <= answer["pooled"]["lensnet"].keys()


def telemetry(split: str, folder: str = "runs/lensnet") -> list[dict]:
    lines = map(json.loads, Path(folder, "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["split"] == split]


TERMS = {"L_reg", "L_rank", "L_budget", "L_illegal"}
OF_SIGNS = {"L_budget", "L_illegal", "budget_balance", "legality_compliance"}


def test_all_four_terms_are_alive_in_what_the_demo_trains(train, tmp_path):
    """Its own commands, on a smaller store and for fewer steps."""
    learnable_store(tmp_path / "traces")
    demo = (Path(__file__).parents[2] / "cli/demo.sh").read_text()
    commands = [shlex.split(line) for line in demo.splitlines() if line.startswith("step train ")]
    assert commands
    for _, _, _, config, *options in commands:
        assert config == "$config"
        succeeded(train(*options))
        folder = options[options.index("--out") + 1]
        for split in ("train", "validation"):
            lines = telemetry(split, folder)
            assert lines
            for line in lines:
                assert {name: line[name] for name in TERMS if not line[name] > 0} == {}
                assert line.keys() >= OF_SIGNS


def test_terms_that_are_not_computed_are_not_logged(train, tmp_path):
    learnable_store(tmp_path / "traces")
    succeeded(train("--target", "value"))
    for line in (*telemetry("train"), *telemetry("validation")):
        assert line.keys() >= TERMS - OF_SIGNS
        assert not line.keys() & OF_SIGNS


def test_the_specification_preset_trains_on_augmented_snapshots_and_logs_on_request(run, train, tmp_path):
    learnable_store(tmp_path / "traces", num_variants=2)
    options = ["--preset", "specification", "--log-lens-debug", "--log-maps"]
    answer = json.loads(succeeded(train(*options, "--json")))
    # 18 measured, and changed copies of some of them; validation has its 6 as they were measured.
    assert answer["num_snapshots"]["validation"] == 6
    assert 18 < answer["num_snapshots"]["train"] <= 54
    log = Path("runs/lensnet/lens_debug.log").read_text()
    assert 1 <= log.count("LensDebug step 20 snapshot ") <= 4
    assert "\nmap    " in log
    assert judged(run, "runs/lensnet/best")["num_snapshots"] == 6
    Path("pairs.sql").write_text("from preference_pairs")
    refused(train("--set", 'train.augment="pairs.sql"', "--out", "other"), "pairs of variants", "labels")
    assert not Path("other").exists()


@pytest.mark.parametrize("objective", ["preference", "mixed"])
def test_pairs_are_learned_and_judged(run, train, tmp_path, objective):
    learnable_store(tmp_path / "traces", num_variants=3)
    target = ["--target", "priced"] if objective == "mixed" else []
    out = succeeded(train("--objective", objective, *target))
    assert "train pairs" in out
    info = json.loads(Path("runs/lensnet/best/config.json").read_text())
    assert info["training"]["objective"]["name"] == objective
    assert info["utility_scale"] > 0
    answer = judged(run, "runs/lensnet/best", split="train")  # too few to generalise from
    assert answer["num_variants"] > 0
    found = answer["scorers"]["lensnet"]
    assert found["preference_agreement"]["mean"] > 0.5
    assert found["preference_corr"]["mean"] < 0
    assert answer["pooled"]["lensnet"]["preference_corr_mean"] < 0
    assert "utility_correlation" in found


def test_preference_without_variants_and_misplaced_conditions_are_refused(train, tmp_path):
    learnable_store(tmp_path / "traces")
    refused(train("--objective", "preference"), "collect.num_random_variants")
    refused(train("--objective", "preference", "--where", "true"), "train.pairs_where")
    learnable_store(tmp_path / "variants", num_variants=3)
    mixed = ("--objective", "mixed", "--target", "value", "--store", str(tmp_path / "variants"))
    refused(train(*mixed), "--target value_and_price")
    refused(train("--where", "no_such_column > 1"), "no_such_column", "condition")
    refused(train("--where", "delta_nll > 1e9"), "meets the condition")
    refused(train("--where", "true); drop table x; select (true"), "expected one SQL condition")
    refused(train("--where", "true ("), "does not parse")
    assert not Path("runs").exists()


def test_a_device_that_is_not_there_leaves_no_run_folder(train, tmp_path, monkeypatch):
    learnable_store(tmp_path / "traces")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    refused(train("--device", "cuda"), "train.device", "cuda", "cpu")
    assert not (tmp_path / "runs").exists()


def test_resuming_where_there_is_no_run_says_that_it_begins(train, tmp_path):
    learnable_store(tmp_path / "traces")
    out = succeeded(train("--resume", train__optimiser__total_steps=6))
    assert "no run to resume in runs/lensnet" in out
    assert "no run to resume" not in succeeded(train("--resume", train__optimiser__total_steps=6))


def test_where_chooses_labels_and_can_choose_one_kind_of_gists(run, train, tmp_path):
    store = learnable_store(tmp_path / "traces")
    other = learnable_store(tmp_path / "other")
    _copy_with_gists(other, store, "other-gists")
    refused(train(), "mixes labels", "--where")
    out = succeeded(train("--where", "gist_hash = 'gists' and action = 'expand'"))
    assert "9 train" not in out
    info = json.loads(Path("runs/lensnet/best/config.json").read_text())
    assert info["dataset"]["gist_hash"] == "gists"
    line = json.loads(Path("runs/lensnet/metrics.jsonl").read_text().splitlines()[0])
    assert "score_delta_nll_expand_mean" in line
    assert "score_delta_nll_collapse_mean" not in line


def _copy_with_gists(source, target, gist_hash):
    """The trajectories of one store in another, as if measured with other gists."""
    from mctrace.datasets.sql.connection import connect, fetch_rows

    connection = connect(source.at())
    rows = fetch_rows(connection, "from stored_trajectories")
    effects = fetch_rows(connection, "from stored_effects")
    for row in rows:
        row.update(gist_hash=gist_hash, trajectory_id="other-" + row["trajectory_id"])
    for row in effects:
        row["trajectory_id"] = "other-" + row["trajectory_id"]
    tables = {"trajectories": rows, "effects": effects}
    part = write_part(target.location, part_id="other", kind="trajectory", run_id="run", tables=tables)
    target.commit([part])


def test_evaluation_uses_the_target_as_it_was_learned(run, train, tmp_path):
    learnable_store(tmp_path / "traces")
    mine = tmp_path / "mine.sql"
    mine.write_text("select *, 2 * value_of_detail as utility from labels -- mine\n")
    succeeded(train("--target", "mine.sql", "--out", "one"))
    mine.write_text("select *, -value_of_detail as utility from labels\n")
    succeeded(train("--target", "mine.sql", "--out", "two"))
    refused(run("evaluate", "one/best", "two/best"), "mine.sql", "one by one")
    mine.unlink()
    assert judged(run, "one/best")["target_hash"] != judged(run, "two/best")["target_hash"]


def test_a_batch_that_diverges_is_kept_for_inspection(train, tmp_path):
    learnable_store(tmp_path / "traces")
    mine = tmp_path / "bad.sql"
    mine.write_text(
        "select *, case when split = 'train' then 'inf'::double else 0 end as utility from labels"
    )
    refused(train("--target", "bad.sql"), "diverged at step 1", "runs/lensnet/diverged")
    kept = load_file("runs/lensnet/diverged/batch.safetensors")
    names = json.loads(Path("runs/lensnet/diverged/snapshots.json").read_text())
    assert kept["0/labels/target_utilities"].isinf().any()
    assert len(names["0/labels"]) == len(kept["0/labels/levels"])
    weights = load_file("runs/lensnet/diverged/model.safetensors")
    assert all(torch.isfinite(weight).all() for weight in weights.values())


def test_attention_mass_is_a_baseline_where_it_was_kept(run, train, tmp_path):
    store = learnable_store(tmp_path / "traces")
    from mctrace.datasets.sql.connection import connect, fetch_rows

    rows = fetch_rows(connect(store.at()), "select trajectory_id from stored_trajectories")
    attention = [
        {
            "trajectory_id": row["trajectory_id"],
            "attention_mass": [0.01 * i for i in range(150)],
            "status": "ok",
        }
        for row in rows
    ]
    part = write_part(
        store.location, part_id="attention", kind="attention", run_id="run", tables={"attention": attention}
    )
    open_store(str(tmp_path / "traces")).commit([part])
    succeeded(train())
    assert "attention" in judged(run, "runs/lensnet/best")["scorers"]


def test_early_stopping_and_transformers_by_option(train, tmp_path):
    learnable_store(tmp_path / "traces")
    out = succeeded(
        train("--network", "transformer", train__patience=1, train__eval_interval=2,
              train__optimiser__learning_rate=0.5)
    )  # fmt: skip
    assert "No lower validation loss for 1 evaluations" in out
