"""End to end through the console script: collect, query, train, evaluate and report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SAMPLE_QUERY = (
    "select action, entry_level, count(*) as num, avg(delta_nll), stddev(delta_nll), "
    "median(value_of_detail / stderr) from labels group by all order by all"
)


def mctrace(*arguments: str, folder: Path, succeeds: bool = True) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("mctrace")), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=os.environ)
    if succeeds:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def as_flags(settings: dict[str, object]) -> list[str]:
    flags = []
    for key, value in settings.items():
        text = json.dumps(list(value)) if isinstance(value, tuple) else json.dumps(value)
        flags += ["--set", f"{key}={text}"]
    return flags


@pytest.fixture(scope="module")
def collected(tiny_settings, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole-way")
    done = mctrace("collect", "--no-ray", *as_flags(tiny_settings), folder=folder)
    assert "effects/s" in done.stdout
    assert "Predicted after the first trajectory" in done.stdout
    return folder


def test_a_second_collect_measures_nothing_twice(collected, tiny_settings):
    before = mctrace("sql", "--format", "json", "select count(*) as n from effects", folder=collected).stdout
    done = mctrace("collect", "--no-ray", *as_flags(tiny_settings), folder=collected)
    assert "Nothing to measure" in done.stdout
    assert (
        before
        == mctrace("sql", "--format", "json", "select count(*) as n from effects", folder=collected).stdout
    )


def test_every_level_and_action_has_labels(collected):
    rows = json.loads(mctrace("sql", "--format", "json", SAMPLE_QUERY, folder=collected).stdout)
    found = {(row["action"], row["entry_level"]) for row in rows}
    assert found == {("collapse", 0), ("collapse", 1), ("expand", 1), ("expand", 2)}
    assert all(row["num"] > 10 for row in rows)


def test_log_and_verify_speak_of_the_run(collected):
    log = mctrace("log", folder=collected).stdout
    assert "finished" in log
    assert "gists mean" in log
    assert "is whole" in mctrace("verify", folder=collected).stdout


def test_train_evaluate_and_report_from_the_store_alone(collected):
    small = ["--preset", "small", "--set", "train.optimiser.total_steps=30"]
    small += ["--set", "train.optimiser.warmup_steps=5", "--set", "train.eval_interval=10"]
    mctrace("train", *small, "--out", "run", folder=collected)
    again = mctrace("train", *small, "--out", "run", folder=collected, succeeds=False)
    assert again.returncode == 1
    assert "--overwrite" in again.stderr

    info = json.loads((collected / "run/best/config.json").read_text())
    assert info["dataset"]["gist_hash"] == "mean"
    assert info["utility_scale"] > 0
    assert (collected / "run/best/model.safetensors").exists()
    lines = (collected / "run/metrics.jsonl").read_text().splitlines()
    assert {json.loads(line)["split"] for line in lines} == {"train", "validation"}

    answer = json.loads(mctrace("evaluate", "run/best", "--json", folder=collected).stdout)
    assert set(answer["scorers"]) == {"run", "ridge", "recency", "noise"}
    accuracy = answer["scorers"]["run"]["ranking_accuracy"]
    assert 0 <= accuracy["low"] <= accuracy["mean"] <= accuracy["high"] <= 1

    mctrace("report", "--run", "run", "--out", "report.html", folder=collected)
    assert "<html" in (collected / "report.html").read_text(encoding="utf-8")

    query = "select snapshot_id, source from labels where split = 'test' order by all limit 1"
    (row,) = json.loads(mctrace("sql", "--format", "json", query, folder=collected).stdout)
    name = row["snapshot_id"][:12]
    shown = mctrace("show", name, "--checkpoint", "run/best", folder=collected).stdout
    assert row["snapshot_id"] in shown
    assert "Edits that show more, worth most" in shown
    assert "no text" not in shown
    dumped = json.loads(mctrace("show", row["snapshot_id"], "--json", folder=collected).stdout)
    assert any(action["measured"] for action in dumped["actions"])
    assert all(span["text"] for span in dumped["spans"])


def bare(text: str) -> str:
    """Text without spaces, which the tiny tokenizer has no decoder for."""
    return text.replace(" ", "").replace("\u0120", "")


def test_an_export_has_the_text_that_was_measured(collected, corpus_folder):
    import datasets

    mctrace("export", "out", "--format", "hf", "--text", "--embeddings", folder=collected)
    snapshots = datasets.load_from_disk(str(collected / "out/snapshots"))
    documents = datasets.load_from_disk(str(collected / "out/documents"))
    embeddings = datasets.load_from_disk(str(collected / "out/embeddings"))["train"]
    assert set(snapshots) == {"train", "validation", "test"}
    texts = {row["document_id"]: row["text"] for rows in documents.values() for row in rows}
    originals = [bare(file.read_text()) for file in corpus_folder.iterdir()]
    assert texts
    assert all(any(bare(text) in original for original in originals) for text in texts.values())
    row = snapshots["train"][0]
    assert bare("".join(row["entry_text"])) in bare(texts[row["document_id"]])
    assert max(token for token in row["entry_token"] if token is not None) < len(embeddings)


def test_plan_predicts_and_measures_nothing(tiny_settings, tmp_path):
    done = mctrace("plan", *as_flags(tiny_settings), folder=tmp_path)
    assert "TFLOP" in done.stdout
    assert list(tmp_path.iterdir()) == []
