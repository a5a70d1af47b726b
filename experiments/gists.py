"""`make gists`: what gists tell, against deletion, on held-out sources and prose.

A key-value GistNet is trained on part of the documents; then it, the same anchors untrained, and extractive
gists are judged on the others: a random half of 768 tokens collapsed (K = 32), the newest 128 whole, the next
64 tokens and the copy test; at level 2 the oldest 1,024 of 2,048. The context's first token always stays.
Every step runs through the console script and goes on where it stopped.

results/gists.json holds `against_deletion`: for each gist the change of the loss on the next tokens less
deletion's, nats per token, with 95% bootstrap intervals paired by document; negative is better than deletion.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.closed_loop import mctrace
from experiments.result_files import RESULTS, machine, write_results

RESULT = RESULTS / "gists.json"
CORPORA = ("stdlib", "pydoc-topics")
GISTS = ("extract-4", "extract-8", "kept-1", "kept-4")
"""untrained gists, beside the trained ones"""
TRAINED = "trained"
HORIZON = 64
_BOUNDS = ("mean", "low", "high")
SPLITS = {
    "corpus.min_tokens": 512, "corpus.max_tokens": 16384, "corpus.validation_fraction": 0.06,
    "corpus.test_fraction": 0.45,
}  # fmt: skip
"""nearly half of the documents are held out, or there would be too few of prose"""
_LEVELS = {
    1: {"placements": ["random"], "levels": [1]},
    2: {"placements": ["oldest"], "levels": [2]},
}


@dataclass(frozen=True)
class Scale:
    """Sizes of the experiment's steps."""

    steps: int
    """optimisation steps"""
    window_tokens: int
    """tokens of a training window"""
    curriculum_steps: int
    documents: Mapping[int, int]
    """most held-out documents of each corpus, by level"""


SCALES = {
    # Minutes, to see that everything runs; an hour of one core; a night.
    "quick": Scale(4, 128, 2, {1: 2, 2: 1}),
    "small": Scale(240, 416, 80, {1: 24, 2: 8}),
    "full": Scale(1200, 512, 150, {1: 160, 2: 80}),
}


def train(scale: Scale, folder: Path) -> Path:
    """The key-value GistNet with the lowest validation loss; an interrupted run goes on."""
    run = folder / "keys"
    if not (run / f"step_{scale.steps:07d}").is_dir():
        settings = {
            "window_tokens": scale.window_tokens, "late_window_tokens": scale.window_tokens,
            "late_after": scale.steps, "curriculum_steps": scale.curriculum_steps, "eval_interval": 60,
            "save_interval": 20, "num_validation_windows": 6, "optimiser.warmup_steps": min(20, scale.steps),
        }  # fmt: skip
        mctrace(
            "gist", "train", "--kind", "key_value", *shared_flags(folder), "--steps", str(scale.steps),
            *flags({f"key_value_train.{key}": value for key, value in settings.items()}),
            "--out", str(run), "--resume" if any(run.glob("step_*")) else "--overwrite",
        )  # fmt: skip
    return run / "best"


def evaluate(scale: Scale, folder: Path, gists: Sequence[str], name: str, level: int) -> Mapping[str, Any]:
    """The judgement of `gists`, kept in the folder under `name`; documents that are done stay."""
    file = folder / f"{name}-level{level}.json"
    settings = {
        "horizons": [HORIZON], "shares": [0.5], "spans_per_document": 0,
        "documents_per_corpus": scale.documents[level], **_LEVELS[level],
    }  # fmt: skip
    if name == TRAINED:
        settings["anchors"] = [1]
    beside = [part for gist in gists[1:] for part in ("--beside", gist)]
    answer = answer_of(
        "gist", "evaluate", gists[0], *beside, *shared_flags(folder), "--json",
        "--rows", str(file.with_suffix(".jsonl")),
        *flags({f"gist_evaluate.{key}": value for key, value in settings.items()}),
    )  # fmt: skip
    file.write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")
    return answer


def answer_of(*arguments: str) -> Mapping[str, Any]:
    """What a command prints with --json; its progress goes where this process's does."""
    command = [str(Path(sys.executable).with_name("mctrace")), *arguments]
    print("$ mctrace", *arguments, flush=True)
    found: Mapping[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def shared_flags(folder: Path) -> list[str]:
    corpora = [part for corpus in CORPORA for part in ("--corpus", corpus)]
    return [
        *corpora, "--store", str(folder / "store"), "--dtype", "bfloat16", "--threads", "1", *flags(SPLITS)
    ]  # fmt: skip


def flags(settings: Mapping[str, Any]) -> list[str]:
    return [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]


def against_deletion(
    answers: Sequence[Mapping[str, Any]], rows: str = "rows", corpus: str = "all"
) -> dict[str, dict[str, float]]:
    """Gist -> what its loss differs from deletion's: mean, bounds, median and trimmed mean, documents."""
    found: dict[str, dict[str, float]] = {}
    for answer in answers:
        for row in answer[rows]:
            if row["corpus"] == corpus and row["versus_deleted"]:
                less, robust = row["versus_deleted"], row["robust"]
                found[row["variant"]] = {
                    **{bound: less[bound] for bound in _BOUNDS},
                    "median": robust["median"]["value"],
                    "trimmed_mean": robust["trimmed_mean"]["value"],
                    "documents": less["num_documents"],
                }
    return found


def above_full(answer: Mapping[str, Any], rows: str = "rows") -> dict[str, dict[str, float]]:
    """Corpus -> loss of the full text, and what deletion costs; nats per token."""
    return {
        row["corpus"]: {"full": row["full_nll"], **{f"deleted_{b}": row["delta_nll"][b] for b in _BOUNDS}}
        for row in answer[rows]
        if row["variant"] == "deleted"
    }


def results_of(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The part of `results/gists.json` that one level's answers give."""
    return {
        "against_deletion": against_deletion(answers),
        "copy_against_deletion": against_deletion(answers, "copies"),
        "by_corpus": {
            corpus: {
                "against_deletion": against_deletion(answers, corpus=corpus),
                "copy_against_deletion": against_deletion(answers, "copies", corpus),
            }
            for corpus in CORPORA
        },
        "deletion": above_full(answers[0]),
        "copy_deletion": above_full(answers[0], "copies"),
    }


def run(name: str, folder: Path, levels: Sequence[int], *, untrained: bool) -> dict[str, Any]:
    """Run every step that an earlier run has not finished, and return the results."""
    scale = SCALES[name]
    folder.mkdir(parents=True, exist_ok=True)
    best = None if untrained else train(scale, folder)
    found = {level: [evaluate(scale, folder, GISTS, "untrained", level)] for level in levels}
    if best is not None:
        for level in levels:
            found[level].append(evaluate(scale, folder, [str(best)], TRAINED, level))
    options = ["--untrained"] * untrained + [f"--level {level}" for level in levels]
    return {
        "command": " ".join([f"python -m experiments.gists --scale {name}", *options]),
        **results_of(found[1]),
        **({"level_2": results_of(found[2])} if 2 in found else {}),
        "training": best and _training(best, found[1][-1]["gist_hash"]),
        "model": found[1][0]["model"],
        "settings": found[1][0]["settings"],
        "scale": {"name": name, **asdict(scale)},
        "machine": machine(),
    }  # fmt: skip


def _training(best: Path, gist_hash: str) -> dict[str, Any]:
    record = json.loads((best / "training.json").read_text(encoding="utf-8"))
    kept = ("step", "seconds", "validation", "num_documents")
    return {"gist_hash": gist_hash, **{key: record[key] for key in kept}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", choices=sorted(SCALES), default="small")
    parser.add_argument("--folder", type=Path, default=Path("runs/gists"))
    parser.add_argument("--untrained", action="store_true", help="only the gists that need no training")
    parser.add_argument("--level", type=int, choices=(1, 2), action="append", help="both unless given")
    arguments = parser.parse_args()
    levels = sorted({1, *(arguments.level or _LEVELS)})
    result = run(arguments.scale, arguments.folder, levels, untrained=arguments.untrained)
    write_results(RESULT, result)
    print(json.dumps(result["against_deletion"], indent=1))


if __name__ == "__main__":
    main()
