"""The worked example of docs/cluster.md: its command predicts what the page says, without any weights."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from transformers import LlamaConfig

from tests.docs.pages import ROOT

pytestmark = pytest.mark.slow

SIZES = {
    "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
    "num_key_value_heads": 8, "vocab_size": 128_256, "max_position_embeddings": 8192,
}  # fmt: skip
"""of Llama 3 70B"""


def numbers(text: str) -> list[float]:
    return [float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?:\.\d+)?", text)]


def test_what_a_large_cluster_needs_is_predicted_as_the_page_says(
    call_mctrace, tiny_model_folder: Path, tmp_path: Path, monkeypatch
):
    page = (ROOT / "docs/cluster.md").read_text()
    command = r"^mctrace (plan --model llama-70b .*)\n```\n\n"
    found = re.search(command + r"```text\n((?:.*\n)*?)```", page, re.MULTILINE)
    assert found
    folder = tmp_path / "llama-70b"
    folder.mkdir()
    for file in tiny_model_folder.glob("tokenizer*"):
        shutil.copy(file, folder)
    LlamaConfig(architectures=["LlamaForCausalLM"], **SIZES).save_pretrained(folder)
    monkeypatch.chdir(tmp_path)
    code, out, err = call_mctrace(*shlex.split(found[1]))
    assert code == 0, err
    said = re.search(r"^\d+ trajectories, .*", out, re.MULTILINE | re.DOTALL)
    assert said, out
    assert numbers(said[0]) == pytest.approx(numbers(found[2]), rel=0.15)
