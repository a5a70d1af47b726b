"""Labels and networks go to a hub and come back the same, and nothing else comes with them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mctrace.datasets.export.export import METADATA
from mctrace.train.checkpoints.lensnet_checkpoint import checkpoint_hash, save_checkpoint
from mctrace.train.networks.config import NetworkConfig
from mctrace.train.networks.registry import build_network
from tests.gists.tiny_models import tiny_gistnet
from tests.sharing.hub_server import TOKEN, Hub, hub_server
from tests.train.checkpoints.descriptions import info_for
from tests.train.stores import learnable_store

MCTRACE = Path(sys.executable).with_name("mctrace")


@pytest.fixture
def hub():
    with hub_server() as served:
        yield served


@pytest.fixture
def run(hub: Hub, tmp_path: Path):
    """Runs mctrace, or with `code` Python, against the hub; returns what `subprocess.run` does."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1",
    }  # fmt: skip

    def run(*arguments: str | Path, code: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-c", code] if code else [MCTRACE]
        return subprocess.run(
            [*program, *arguments], env={**environment, **more}, cwd=tmp_path, check=False,
            capture_output=True, text=True,
        )  # fmt: skip

    return run


def succeeded(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 1, done.stdout
    (line,) = done.stderr.strip().splitlines()
    for word in words:
        assert word in line


def lensnet(folder: Path) -> Path:
    config = NetworkConfig(name="linear", d_lens=8, num_heads=2)
    info = info_for(config)
    save_checkpoint(folder, build_network(config, info.embedding_dim), info)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


STREAM = """
import sys
from datasets import load_dataset
rows = list(load_dataset("org/labels", "snapshots", split="train", streaming=True))
print(len(rows), len(rows[0]["action"]))
"""


def test_a_stores_labels_go_and_come_back(hub, run, tmp_path):
    learnable_store(tmp_path / "traces")
    answer = json.loads(succeeded(run("push", "traces", "org/labels", "--license", "cc-by-4.0", "--json")))
    assert hub.repos["datasets", "org/labels"][-1][0] == answer["commit"]
    assert set(hub.large.values()) >= {
        content for path, content in hub.files("dataset", "org/labels").items() if path.endswith(".parquet")
    }
    card = hub.files("dataset", "org/labels")["README.md"].decode()
    for said in ("license: cc-by-4.0", "size_categories", 'load_dataset("org/labels"', "Horizon:", "@misc"):
        assert said in card

    said = succeeded(run("pull", "org/labels", "back"))
    assert "pulled labels of org/labels" in said
    about = json.loads((tmp_path / "back" / METADATA).read_text())
    rows, labels = map(int, succeeded(run(code=STREAM)).split())
    assert rows == about["num_rows"]["snapshots"]["train"]
    assert labels > 0
    assert about["num_by_estimator"] == {"exact": about["num_labels"]}
    refused(run("pull", "org/labels", "back"), "holds labels already", "--overwrite")


def test_pushing_again_leaves_nothing_of_before(hub, run, tmp_path):
    learnable_store(tmp_path / "traces")
    hub.create("dataset", "org/labels")
    hub.commit(
        "datasets", "org/labels", {"snapshots/train-00009.parquet": b"old", "notes.txt": b"somebody's"}
    )
    succeeded(run("push", "traces", "org/labels"))
    files = hub.files("dataset", "org/labels")
    assert "snapshots/train-00009.parquet" not in files
    assert files["notes.txt"] == b"somebody's"


def test_a_lensnet_goes_and_comes_back(hub, run, tmp_path):
    folder = lensnet(tmp_path / "run/best")
    succeeded(run("push", "run", "org/lens"))
    card = hub.files("model", "org/lens")["README.md"].decode()
    assert 'load_checkpoint("org/lens")' in card
    assert "## Training" in card
    succeeded(run("pull", "org/lens", "back"))
    assert checkpoint_hash(tmp_path / "back") == checkpoint_hash(folder)
    load = "from mctrace import Scorer; print(Scorer.from_pretrained('org/lens').info.network.name)"
    assert succeeded(run(code=load)).split() == ["linear"]
    offline = run(code=load, HF_HUB_OFFLINE="1")
    assert succeeded(offline).split() == ["linear"], "what was downloaded serves without a network"


def test_a_gistnet_goes_and_comes_back(hub, run, tmp_path):
    made = tiny_gistnet(is_trained=True)
    made.save_pretrained(tmp_path / "gists")
    succeeded(run("push", "gists", "org/gists"))
    succeeded(run("pull", "org/gists", "back"))
    taken = ("config.json", "model.safetensors", "manifest.json")
    back = files_of(tmp_path / "back")
    assert {name: back[name] for name in taken} == files_of(tmp_path / "gists")
    load = "from mctrace import load_gistnet; print(load_gistnet('org/gists').content_hash)"
    assert succeeded(run(code=load)).split() == [made.content_hash]


PUSH_AND_LOAD = """
import sys
from pathlib import Path
from mctrace import Scorer, load_checkpoint, load_gistnet, push_to_hub

scorer = Scorer.from_pretrained("best")
print(push_to_hub(scorer, "org/lens", licence="apache-2.0").url)
push_to_hub(load_gistnet("gists"), "org/gists", private=True)
push_to_hub("best", "org/folder")
for name in ("org/lens", "org/folder"):
    again = Scorer.from_pretrained(name)
    assert again.info == scorer.info
    for one, other in zip(again.network.parameters(), scorer.network.parameters(), strict=True):
        assert one.equal(other)
assert load_gistnet("org/gists").content_hash == load_gistnet("gists").content_hash
"""


def test_networks_go_from_python_and_are_loaded_by_name(hub, run, tmp_path):
    lensnet(tmp_path / "best")
    tiny_gistnet(is_trained=True).save_pretrained(tmp_path / "gists")
    assert "org/lens" in succeeded(run(code=PUSH_AND_LOAD))
    card = hub.files("model", "org/lens")["README.md"].decode()
    assert "license: apache-2.0" in card
    assert 'load_checkpoint("org/lens")' in card
    assert set(hub.files("model", "org/gists")) >= {*files_of(tmp_path / "gists"), "README.md"}


def test_only_data_comes(hub, run, tmp_path):
    lensnet(tmp_path / "best")
    succeeded(run("push", "best", "org/lens"))
    strange = {
        "run.py": b"print(1)", "weights.pkl": b"\x80", "../escaped.json": b"{}", "a/b/c/deep.json": b"{}",
        "model.safetensors.index.json": b"{}",
    }  # fmt: skip
    hub.commit("models", "org/lens", strange)
    said = succeeded(run("pull", "org/lens", "back"))
    assert set(files_of(tmp_path / "back")) == {*files_of(tmp_path / "best"), "README.md"}
    assert not (tmp_path / "escaped.json").exists()
    for name in strange:
        assert name in said


def test_damage_on_the_way_is_refused_and_leaves_nothing(hub, run, tmp_path):
    lensnet(tmp_path / "best")
    succeeded(run("push", "best", "org/lens"))
    weights = bytearray(hub.files("model", "org/lens")["model.safetensors"])
    weights[-1] ^= 1
    hub.commit("models", "org/lens", {"model.safetensors": bytes(weights)})
    refused(run("pull", "org/lens", "back"), "sha256")
    assert not (tmp_path / "back").exists()


def test_mistakes_end_in_one_line(hub, run, tmp_path, monkeypatch):
    lensnet(tmp_path / "best")
    (tmp_path / "other").mkdir()
    refused(run("pull", "org/nothing", "back"), "org/nothing", "no such dataset or model")
    refused(run("pull", "best", "back"), "organisation/name")
    learnable_store(tmp_path / "traces")
    monkeypatch.setattr("mctrace.sharing.push.export", lambda *_: pytest.fail("exported for no repository"))
    refused(run("push", "traces", "no name"), "organisation/name")
    refused(run("push", "other", "org/x"), "neither a store, nor an export, nor a checkpoint")
    refused(run("push", "best", "org/x", HF_TOKEN="wrong"), "401", "hf auth login")
    refused(run("push", "best", "org/x", HF_HUB_OFFLINE="1"), "HF_HUB_OFFLINE is set")
    refused(run("push", "best", "org/x", HF_ENDPOINT="http://127.0.0.1:9"), "http://127.0.0.1:9", "network")
    shutil.copytree(tmp_path / "best", tmp_path / "cut")
    (tmp_path / "cut/model.safetensors").write_bytes(b"short")
    refused(run("push", "cut", "org/x"), "model.safetensors")
    assert not hub.repos
