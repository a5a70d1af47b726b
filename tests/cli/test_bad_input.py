"""Bad input ends in one clear line, a non-zero exit and an unchanged store."""

import errno
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from mctrace.collect.planning.trace_files import TRACES
from mctrace.datasets.store.store import create_store
from tests.cli.bad_inputs import BadInput, bad_inputs, set_up, try_all, try_one
from tests.cli.flags import set_flags
from tests.models import save_tiny_model


@pytest.fixture
def run(tmp_path, monkeypatch, call_mctrace, tiny_settings):
    """Runs a command in this process and returns (exit code, output, errors)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, settings: bool = False) -> tuple[int, str, str]:
        flags = set_flags(tiny_settings) if settings else []
        return call_mctrace(arguments[0], *flags, *arguments[1:])

    return run


def refused(answer: tuple[int, str, str], *words: str) -> None:
    code, _, err = answer
    assert code != 0
    assert "Traceback" not in err
    for word in words:
        assert word in err


def untouched(folder: Path) -> bool:
    return not (folder / "traces").exists()


def test_a_corpus_that_is_missing_empty_or_not_text(run, tmp_path):
    refused(run("collect", "--no-ray", "--corpus", "nowhere", settings=True), "nowhere", "does not exist")
    (tmp_path / "empty").mkdir()
    refused(run("collect", "--no-ray", "--corpus", "empty", settings=True), "no usable document")
    (tmp_path / "binary").mkdir()
    (tmp_path / "binary/a.txt").write_bytes(b"\xff\xfe\x00\x01" * 50)
    refused(run("collect", "--no-ray", "--corpus", "binary", settings=True), "not UTF-8", "a.txt")
    (tmp_path / "picture.png").write_bytes(b"png")
    refused(run("collect", "--no-ray", "--corpus", "picture.png", settings=True), ".png")
    refused(run("collect", "--no-ray"), "--corpus")
    assert untouched(tmp_path)


def test_documents_too_short_are_counted_and_an_error_when_all_are(run, tmp_path):
    folder = tmp_path / "short"
    folder.mkdir()
    for i in range(4):
        (folder / f"{i}.txt").write_text("too short")
    answer = run("collect", "--no-ray", "--corpus", "short", settings=True)
    refused(answer, "4 shorter than corpus.min_tokens=128")
    assert untouched(tmp_path)


def test_documents_too_short_for_their_horizon_say_what_to_lower(run, tmp_path):
    answer = run("collect", "--no-ray", "--set", "collect.horizon=900", settings=True)
    refused(answer, "no document is long enough", "lower collect.horizon")
    assert untouched(tmp_path)


def test_a_configuration_file_that_is_not_there(run):
    refused(run("collect", "--no-ray", "--config", "none.toml"), "none.toml", "mctrace init")


def test_an_unknown_model_says_what_can_be_given(run):
    refused(run("collect", "--no-ray", "--corpus", ".", "--model", "no/such-model"), "no/such-model", "alias")


def test_gists_of_another_width_than_the_model_are_refused_before_any_work(run, tmp_path):
    from mctrace.gists.network.transformer_gistnet import GistNetConfig, TransformerGistNet

    config = GistNetConfig(embedding_dim=48, block_size=4, width=12, num_heads=2, num_kv_heads=1)
    TransformerGistNet(config).save_pretrained(tmp_path / "gistnet")
    answer = run("collect", "--no-ray", "--set", "gists.source=gistnet", settings=True)
    refused(answer, "width 48", "width 32")


def test_a_window_wider_than_the_model_is_refused_before_any_work(run, tmp_path):
    wide = ["--set", "collect.window=1000", "--set", "corpus.max_tokens=2000"]
    answer = run("collect", "--no-ray", *wide, settings=True)
    refused(answer, "positions", "set collect.window")
    fits = re.search(r"to (\d+) at most", answer[2])
    assert fits, answer
    code, out, _ = run("plan", *wide, settings=True)
    assert (code, f"collect.window = {fits[1]}" in out) == (0, True)
    assert untouched(tmp_path)


def test_a_device_that_is_not_there(run):
    refused(run("collect", "--no-ray", "--device", "cuda:7", settings=True), "cuda:7")


def test_keys_and_values_of_the_configuration(run, tmp_path):
    (tmp_path / "pipeline.toml").write_text("[collect]\nhorizn = 3\n")
    refused(run("log"), "collect.horizn", "pipeline.toml", "collect.horizon")


def test_a_store_that_is_missing_or_newer(run, tmp_path):
    refused(run("log"), "no trace store", "mctrace init")
    create_store(str(tmp_path / "traces"))
    (tmp_path / "traces/mctrace-store.json").write_text('{"format_version": 7}')
    refused(run("sql", "select 1"), "format 7", "upgrade")


def test_a_version_that_does_not_exist_and_sql_that_does_not_parse(run, tmp_path):
    create_store(str(tmp_path / "traces"))
    refused(run("sql", "--version", "5", "select 1"), "version 5", "versions are 0 to 0")
    refused(run("sql", "selec 1"), "does not parse", "selec")
    refused(run("sql", "--file", "no.sql"), "no.sql")


def test_training_on_an_empty_store_and_evaluating_no_checkpoint(run, tmp_path):
    create_store(str(tmp_path / "traces"))
    refused(run("train"), "no labels", "mctrace collect")
    refused(run("evaluate", "runs/none"), "runs/none")


def test_a_trace_file_of_which_no_row_can_be_taken(run, tmp_path):
    good = {
        "source": "live", "tokenizer_hash": None, "document_id": None, "tokens": list(range(100)),
        "block_size": 4, "start": 0, "levels": [1] * 10, "cursors": [40],
    }  # fmt: skip
    pq.write_table(pa.Table.from_pylist([good], schema=TRACES), tmp_path / "t.parquet")
    refused(run("collect", "--no-ray", "--traces", "t.parquet", settings=True), "row 0", "tokenizer_hash")
    (line,) = (tmp_path / "t.parquet.rejected.jsonl").read_text().splitlines()
    assert json.loads(line)["row"] == 0
    refused(run("collect", "--no-ray", "--traces", "none.parquet", settings=True), "does not exist")
    (tmp_path / "text.parquet").write_text("hello")
    refused(run("collect", "--no-ray", "--traces", "text.parquet", settings=True), "not readable Parquet")
    assert untouched(tmp_path)


def test_a_model_without_safetensors_is_not_loaded(run, tmp_path):
    folder = save_tiny_model(tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(run("collect", "--no-ray", "--model", "pickled", settings=True), "no .safetensors files")


def test_init_writes_a_configuration_and_a_store_once(run, tmp_path):
    assert run("init")[0] == 0
    assert (tmp_path / "pipeline.toml").read_text().startswith("# mctrace configuration")
    assert (tmp_path / "traces").is_dir()
    (tmp_path / "pipeline.toml").write_text("# mine\n")
    assert run("init")[0] == 0
    assert (tmp_path / "pipeline.toml").read_text() == "# mine\n"
    assert "no run yet" in run("log")[1] or "version 0" in run("log")[1]


def test_with_nothing_left_to_measure_devices_and_addresses_are_still_checked(run):
    few = ["collect", "--limit", "3"]
    assert run(*few, "--no-ray", settings=True)[0] == 0
    assert "Nothing to measure" in run(*few, "--no-ray", settings=True)[1]
    assert "Nothing to measure" in run(*few, settings=True)[1]
    refused(run(*few, "--no-ray", "--device", "cuda:7", settings=True), "cuda:7")
    refused(run(*few, "--device", "quantum", settings=True), "quantum")
    refused(run(*few, "--ray-address", "127.0.0.1:1", settings=True), "127.0.0.1:1", "refused", "--no-ray")
    refused(run(*few, "--ray-address", "nowhere", settings=True), "'nowhere'", "HOST:PORT")


def test_weights_of_a_wrapped_model_measure_nothing(run, tmp_path):
    folder = save_tiny_model(tmp_path / "wrapped")
    weights = {f"module.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    answer = run("collect", "--no-ray", "--model", "wrapped", settings=True)
    refused(answer, "wrapped lacks", 'keys start with "module."', "save the unwrapped model")
    assert len(answer[2].strip().splitlines()) == 1


def test_a_full_disk_during_a_command_is_one_line(run, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "traces/parts/x")

    monkeypatch.setattr("mctrace.collect.workers.worker.write_part", full)
    answer = run("collect", "--no-ray", settings=True)
    refused(answer, "ran out of disk space", "traces/parts/x", "make room")
    assert len(answer[2].strip().splitlines()) == 1


def test_an_answer_that_nobody_can_read_is_refused():
    command = [sys.executable, "-c", "from mctrace.cli.app import main; main()", "--help"]
    closed = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
    done = subprocess.run(closed, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == "mctrace: standard output is closed: nothing could be answered"


def test_a_sample_of_the_net_is_refused_clearly(tmp_path):
    """All of it is tried in the slow test below and in `make chaos`."""
    num_tried, unclear = try_all(tmp_path, random.Random(0).sample(bad_inputs(), 40))
    assert num_tried == 40
    assert unclear == []


@pytest.mark.slow
def test_the_whole_net_is_refused_clearly(tmp_path):
    num_tried, unclear = try_all(tmp_path)
    assert num_tried >= 500
    assert unclear == []


def test_the_net_notices_what_is_taken_what_is_vague_and_what_is_left_behind(tmp_path, monkeypatch):
    scene = set_up(tmp_path)

    def why(*arguments: str, names: tuple[str, ...] = ()) -> str:
        found = try_one(scene, BadInput(arguments, names))
        return found.why if found else ""

    def end_in(lines: str, leave: str = "") -> None:
        def main() -> None:
            if leave:
                (scene / leave).write_text("half")
            print(lines, file=sys.stderr)
            sys.exit(1)

        monkeypatch.setattr("mctrace.cli.app.main", main)

    assert why("log", "--store", "nowhere") == ""
    assert why("log", "--store", "store") == "was taken"
    assert why("log", "--store", "nowhere", names=("somewhere",)) == "does not name somewhere"
    end_in("mctrace: no\nreally not")
    assert why("log") == "2 lines instead of one"
    end_in("mctrace: " + "no " * 500)
    assert why("log").startswith("a line of")
    end_in("mctrace: no", leave="half.txt")
    assert why("log").startswith("changed")
    monkeypatch.setattr("mctrace.cli.app.main", lambda: 1 // 0)
    assert why("log").startswith("ZeroDivisionError")
