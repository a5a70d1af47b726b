"""`mctrace gist`: training, continuing, judging and using a GistNet; mistakes end in one clear line."""

import json
from pathlib import Path

import pytest

from mctrace.cli.configuration import load_config
from mctrace.cli.presets import KeyValuePreset, key_value_preset
from mctrace.gists.network.loading import load_gistnet
from tests.cli.documented_answers import DOCUMENTED
from tests.cli.flags import set_flags

TRAINING = {
    "gist_train.network.num_layers": 1,
    "gist_train.rarity.num_steps": 2,
    "gist_train.objective.window_tokens": 64,
    "gist_train.objective.protected_tail": 8,
    "gist_train.objective.scored_tokens": 16,
    "gist_train.objective.curriculum_steps": 2,
    "gist_train.optimiser.warmup_steps": 1,
    "gist_train.optimiser.total_steps": 4,
    "gist_train.num_validation_windows": 2,
    "gist_train.eval_interval": 2,
    "key_value_train.rank": 2,
    "key_value_train.window_tokens": 64,
    "key_value_train.late_window_tokens": 64,
    "key_value_train.optimiser.warmup_steps": 1,
    "key_value_train.optimiser.total_steps": 3,
    "key_value_train.num_validation_windows": 2,
    "key_value_train.save_interval": 1,
}
EVALUATION = {
    "gist_evaluate.context_tokens": 64,
    "gist_evaluate.horizons": (8, 16),
    "gist_evaluate.shares": (0.5,),
    "gist_evaluate.protected_tail": 8,
}


@pytest.fixture
def run(monkeypatch, call_mctrace, tiny_settings):
    """Runs a command in this process and folder, and returns (exit code, output, errors)."""

    def run(folder: Path, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.chdir(folder)
        flags = set_flags({**tiny_settings, **TRAINING, **EVALUATION})
        command = 2 if arguments[0] == "gist" else 1
        return call_mctrace(*arguments[:command], *flags, *arguments[command:])

    return run


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("gists")


@pytest.fixture
def trained(run, shared_folder) -> Path:
    """A GistNet of four steps, trained once for all tests here."""
    if not (shared_folder / "gistnet").exists():
        code, _, err = run(shared_folder, "gist", "train", "--out", "gistnet")
        assert code == 0, err
    return shared_folder / "gistnet"


def refused(answer: tuple[int, str, str], *words: str) -> None:
    code, _, err = answer
    assert code != 0
    assert "Traceback" not in err
    for word in words:
        assert word in err


def test_training_leaves_a_gistnet_with_its_record_and_metrics(trained):
    assert load_gistnet(str(trained / "best")).content_hash != "mean"
    record = json.loads((trained / "best/training.json").read_text())
    assert record["init"] is None
    assert record["training"]["optimiser"]["total_steps"] == 4
    assert record["num_documents"] > 0
    splits = [json.loads(line)["split"] for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert splits.count("validation") == 2


def test_an_earlier_run_is_kept_unless_overwritten(run, trained):
    refused(run(trained.parent, "gist", "train", "--out", "gistnet"), "holds an earlier run", "--overwrite")


def test_training_goes_on_from_an_earlier_gistnet(run, trained):
    further = ("--init", "gistnet/best", "--out", "further", "--json")
    code, out, err = run(trained.parent, "gist", "train", *further)
    assert code == 0, err
    answer = json.loads(out)
    assert set(answer) == DOCUMENTED["gist train"]
    assert (answer["gists"], answer["num_steps"]) == ("further/best", 4)
    record = json.loads((trained.parent / "further/best/training.json").read_text())
    assert record["init_hash"] == load_gistnet(str(trained / "best")).content_hash
    metrics = (trained.parent / "further/metrics.jsonl").read_text().splitlines()
    assert json.loads(metrics[0])["step"] == 2


def test_json_is_one_object_and_the_card_is_made_from_the_same(run, trained):
    code, out, err = run(
        trained.parent, "gist", "evaluate", "gistnet/best", "--beside", "mean", "--json", "--card"
    )
    assert code == 0, err
    answer = json.loads(out)
    variants = {(row["variant"], row["setting"]["level"]) for row in answer["rows"]}
    assert variants == {(v, level) for v in ("deleted", "mean", "trained") for level in (1, 2)}
    assert answer["gist_hash"] == load_gistnet(str(trained / "best")).content_hash
    assert answer == json.loads((trained / "best/evaluation.json").read_text())
    card = (trained / "best/MODEL_CARD.md").read_text()
    assert answer["gist_hash"] in card
    steps = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    judged = [line for line in steps if line["split"] == "validation"]
    curve = json.loads(next(trained.glob("step_*/training.json")).read_text())["curve"]
    assert curve == [{"step": line["step"], "loss": line["loss"]} for line in judged]
    assert f"{judged[0]['loss']:.4f} at step {judged[0]['step']}" in card
    assert card.count("| trained |") > len({row["horizon"] for row in answer["rows"]})


def test_gists_of_keys_and_values_are_trained_judged_beside_others_and_go_on(run, trained):
    folder = trained.parent
    code, _, err = run(folder, "gist", "train", "--kind", "key_value", "--steps", "2", "--out", "keys")
    assert code == 0, err
    refused(run(folder, "gist", "train", "--kind", "key_value", "--out", "keys"), "holds an earlier run")
    code, out, err = run(folder, "gist", "train", "--kind", "key_value", "--out", "keys", "--resume")
    assert code == 0, err
    assert "Going on after step 2" in out
    others = ("--beside", "extract-4", "--beside", "kept-2", "--rows", "rows.jsonl")
    command = ("gist", "evaluate", "keys/best", *others, "--json", "--card")
    code, out, err = run(folder, *command)
    assert code == 0, err
    answer = json.loads(out)
    expected = {"deleted", "extract-4", "kept-2", "trained-1", "trained-4"}
    assert (
        {row["variant"] for row in answer["rows"]} == {row["variant"] for row in answer["copies"]} == expected
    )
    assert answer["gist_hash"] in (folder / "keys/best/MODEL_CARD.md").read_text()
    rows = (folder / "rows.jsonl").read_text()
    assert json.loads(run(folder, *command)[1]) == answer
    assert (folder / "rows.jsonl").read_text() == rows


def test_options_of_another_kind_of_gist_are_refused(run, trained):
    folder = trained.parent
    refused(run(folder, "gist", "train", "--resume", "--out", "x"), "--resume", "--kind key_value")
    refused(run(folder, "gist", "train", "--preset", "gpu", "--out", "x"), "--preset", "--kind key_value")
    key_value = ("gist", "train", "--kind", "key_value")
    refused(run(folder, *key_value, "--init", "mean", "--out", "x"), "--init")
    refused(run(folder, "gist", "evaluate", "extract-0"), "extract-0", "from 1 to 1024")


def test_the_table_is_printed_for_people(run, trained):
    code, out, err = run(trained.parent, "gist", "evaluate", "mean")
    assert code == 0, err
    assert "50% oldest" in out
    assert "deleted" in out


def test_labels_carry_the_gists_hash_and_mixtures_are_refused(run, trained):
    folder = trained.parent
    assert run(folder, "collect", "--no-ray", "--limit", "4", "--set", "gists.source=gistnet/best")[0] == 0
    code, out, err = run(folder, "sql", "--format", "json", "select distinct gist_hash from labels")
    assert code == 0, err
    own = load_gistnet(str(trained / "best")).content_hash
    assert [row["gist_hash"] for row in json.loads(out)] == [own]
    assert run(folder, "collect", "--no-ray", "--limit", "4")[0] == 0
    refused(run(folder, "train", "--preset", "small"), "mixes labels", own[:8], "gists mean")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gist", "evaluate", "nowhere"], ["'nowhere'", "config.json"]),
        (["gist", "evaluate", "mean", "--split", "tset"], ["--split", "tset"]),
        (["gist", "evaluate", "mean", "--card"], ["--card", "mean"]),
        (["gist", "evaluate", "smollm2-135m-k32"], ["blocks of 32"]),
        (["gist", "train", "--init", "mean"], ["MeanGistNet"]),
        (["gist", "train", "--set", "gist_train.objective.match=mse"], ["gist_train.objective.match"]),
        (["gist", "train", "--set", "gist_train.network.num_layers=9"], ["copy_layers = false"]),
        (["gist", "train", "--set", "gist_train.objective.scored_tokens=4096"], ["4112 tokens"]),
        (["gist", "evaluate", "mean", "--set", "gist_evaluate.context_tokens=4096"], ["test split", "4112"]),
    ],
)
def test_a_mistake_ends_in_one_line_that_says_what_to_do(run, tmp_path, arguments, words):
    refused(run(tmp_path, *arguments), *words)
    assert not (tmp_path / "runs").exists()


def test_presets_of_key_value_gists_are_whole_configurations_of_growing_length():
    steps = []
    for name in KeyValuePreset:
        found = load_config(None, [], {}, {}, key_value_preset(name)).key_value_train
        steps.append(found.optimiser.total_steps * found.late_windows_per_step * found.late_window_tokens)
    assert steps == sorted(steps)
    assert len(set(steps)) == 3
