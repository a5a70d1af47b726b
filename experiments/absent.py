"""`make absent`: what leaving blocks out is worth, against truncation, where nothing costs what is not shown.

The closed loop of `closed_loop.py` with `tree.absence`: every policy starts from truncation, inserts old
blocks and drops others. Labels of inserts and drops are collected where the loop starts; LensNet and a
linear network learn from them, with and without word matches. Every step runs through the console script and
resumes where it stopped.

results/absent.json holds, for each policy and kind of document, by how many nats per token it is better than
truncation (`lod0`) on the next K tokens, with 95% bootstrap intervals paired by document.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.closed_loop import CORPORA, PLAIN, RECALL, REGULARISED, corpora, mctrace
from experiments.result_files import RESULTS, machine, write_results
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store.store import open_store

CONFIG = Path(__file__).with_suffix(".toml")
RESULT = RESULTS / "absent.json"
TRUNCATION = "lod0"
BUDGET = 512
"""entries of a working context, at which labels were collected"""
_MATCH_WORDS = ("--set", "train.network.match_words=true")
NETWORKS: Mapping[str, tuple[str, ...]] = {
    "linear": ("--network", "linear"),
    "lensnet": ("--network", "dual_cross_attention"),
    "linear_words": ("--network", "linear", *_MATCH_WORDS),
    "lensnet_words": ("--network", "dual_cross_attention", *_MATCH_WORDS),
}
"""flags of each training; those that match words see which blocks share rare words with the newest tokens"""
GROUPS = {"recall": "all recall", "ordinary": "all other"}
"""kinds of documents, and the groups of a closed loop's answer that hold them"""


@dataclass(frozen=True)
class Scale:
    """Sizes of the experiment's steps."""

    collected: tuple[int, int]
    """documents with labels: recall documents, plain ones"""
    actions: int
    """actions measured per context"""
    steps: int
    """optimiser steps per network"""
    documents: int
    """held-out documents in the loop"""
    refocuses: int
    candidates: int
    """actions that hindsight measures exactly at a refocus"""
    policies: tuple[str, ...] = ()
    """policies beside the checkpoints; those of absent.toml unless given"""
    other_budgets: tuple[int, ...] = (256, 1024)
    """budgets of a working context at which the loop runs again, with the same checkpoints"""


_CHEAP = ("lod0", "recency", "words", "bm25", "influence", "told")
SCALES = {
    # Ten minutes of one core, to see that everything runs; an hour and a half; a night.
    "quick": Scale((6, 4), 4, 60, 4, 2, 8, _CHEAP, (256,)),
    "small": Scale((30, 12), 12, 300, 12, 4, 8),
    "full": Scale((180, 60), 16, 800, 24, 8, 16),
}


def collect(scale: Scale, folder: Path) -> None:
    """Labels of inserts and drops, on truncated contexts and on random ones."""
    for paths, documents in zip((RECALL, PLAIN), scale.collected, strict=True):
        mctrace(
            "collect", "--no-ray", "--config", str(CONFIG), "--store", str(folder / "store"),
            *corpora(paths), "--limit", str(documents), "--set", f"collect.max_actions={scale.actions}",
        )  # fmt: skip


def train(scale: Scale, folder: Path, name: str) -> Path:
    """The best checkpoint of the network called `name`; an interrupted run resumes."""
    run = folder / name
    if not (run / f"step_{scale.steps:07d}").is_dir():
        begun = "--resume" if any(run.glob("step_*")) else "--overwrite"
        mctrace(
            "train", "--config", str(CONFIG), "--store", str(folder / "store"), "--preset", "small",
            *NETWORKS[name], "--out", str(run), begun,
            "--set", f"train.optimiser.total_steps={scale.steps}", *REGULARISED,
        )  # fmt: skip
    return run / "best"


def evaluate(scale: Scale, folder: Path, checkpoints: Sequence[Path], budget: int) -> Mapping[str, Any]:
    """The closed loop of all policies and checkpoints at a budget; rows that are there stay."""
    settings: dict[str, int | str] = {
        "documents": scale.documents, "refocuses": scale.refocuses, "max_candidates": scale.candidates,
        "w_max": budget,
    }  # fmt: skip
    if scale.policies:
        settings["policies"] = json.dumps(scale.policies)
    flags = [part for key, value in settings.items() for part in ("--set", f"closed_loop.{key}={value}")]
    out = folder / f"loop-{budget}"
    mctrace(
        "evaluate", "--closed-loop", "--config", str(CONFIG), "--store", str(folder / "store"),
        *corpora(CORPORA), "--out", str(out), *flags, *map(str, checkpoints),
    )  # fmt: skip
    answer: Mapping[str, Any] = json.loads((out / "closed_loop.json").read_text())
    return answer


def against_truncation(answer: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Policy -> kind of document -> mean, low and high of how much better it is, nats per token."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for kind, group in GROUPS.items():
        for name, summary in answer["groups"][group].items():
            if name == "recency":
                gain = {bound: -value for bound, value in _of_truncation(answer, group).items()}
                gain = {"mean": gain["mean"], "low": gain["high"], "high": gain["low"]}
            elif name != TRUNCATION:
                gain = {bound: summary["less_than_others"][TRUNCATION][bound] for bound in _BOUNDS}
            else:
                continue
            found.setdefault(name, {})[kind] = gain
    return found


_BOUNDS = ("mean", "low", "high")


def _of_truncation(answer: Mapping[str, Any], group: str) -> dict[str, float]:
    """By how much truncation is better than recency, which an answer keeps under a name of its own."""
    interval = answer["groups"][group][TRUNCATION]["less_than_recency"]
    return {bound: interval[bound] for bound in _BOUNDS}


def count_labels(folder: Path) -> list[dict[str, Any]]:
    """Labels of each action in the training split, with the spread of their values of detail."""
    return fetch_rows(
        connect(open_store(str(folder / "store")).at()),
        """select action, count(distinct document_id) as documents, count(distinct snapshot_id) as contexts,
            count(*) as labels, avg(value_of_detail) as mean, quantile_cont(value_of_detail, 0.05) as p05,
            quantile_cont(value_of_detail, 0.5) as p50, quantile_cont(value_of_detail, 0.95) as p95
        from labels where split = 'train' group by action order by action""",
    )


def run(name: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Run every step that an earlier run has not finished; yields the results after each budget."""
    scale, started = SCALES[name], time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    collect(scale, folder)
    checkpoints = [train(scale, folder, network) for network in NETWORKS]
    answer = evaluate(scale, folder, checkpoints, BUDGET)
    result = summary(name, answer, folder) | {"seconds": time.perf_counter() - started}
    yield result
    for budget in sorted(scale.other_budgets):
        other = against_truncation(evaluate(scale, folder, checkpoints, budget))
        result["other_budgets"][str(budget)] = other
        yield result | {"seconds": time.perf_counter() - started}


def summary(name: str, answer: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What is kept of the closed loop at the budget of the labels, and of how it came about."""
    return {
        "command": f"python -m experiments.absent --scale {name}",
        "budget": BUDGET,
        "against_truncation": against_truncation(answer),
        "other_budgets": {},
        "documents": {
            kind: answer["groups"][group][TRUNCATION]["nll"]["num_documents"]
            for kind, group in GROUPS.items()
        },
        "truncation_nll": {
            kind: {bound: answer["groups"][group][TRUNCATION]["nll"][bound] for bound in _BOUNDS}
            for kind, group in GROUPS.items()
        },
        "labels": count_labels(folder),
        "model": answer["model"],
        "gists": answer["gists"],
        "closed_loop": answer["closed_loop"],
        "scale": {"name": name, **asdict(SCALES[name])},
        "machine": machine(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", choices=sorted(SCALES), default="full")
    parser.add_argument("--folder", type=Path, default=Path("runs/absent"))
    arguments = parser.parse_args()
    for result in run(arguments.scale, arguments.folder):
        write_results(RESULT, result)
    print(json.dumps(result["against_truncation"], indent=1))


if __name__ == "__main__":
    main()
