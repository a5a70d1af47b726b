"""`make closed-loop`: does a LensNet that learns counterfactual delta-NLL make better working contexts?

From nothing to the table: collect labels on recall documents, sources and prose; train each network on each
target; run the closed loop of all of them and the other policies on held-out documents; collect on-policy
labels with one of them, train again on both, and run the loop again. Two comparisons need labels alone:
literal against priced and joint against single edits (`edit_choices.py`). The greedy allocator is compared
with an exhaustive one (`exhaustive_allocator.py`).

Every step runs through the console script and resumes where it stopped; `--scale` says how much of it.
results/closed-loop.json keeps a summary, from which `closed_loop_page.py` makes CLOSED_LOOP.md.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.edit_choices import half_collapsed, summarise_halves, summarise_swaps, swaps
from experiments.exhaustive_allocator import compare_greedy
from experiments.result_files import RESULTS, interval, machine, write_results
from mctrace.analysis.closed_loop.documents import held_out_documents
from mctrace.cli.configuration import load_config
from mctrace.collect.measuring.bring_up import bring_up, resolve_evaluable_model
from mctrace.collect.planning.lensnet_policy import embed_document
from mctrace.collect.planning.run_plan import provenance_of
from mctrace.context.allocator import AllocatorConfig
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store.store import open_store

HERE = Path(__file__).parent
CONFIG = HERE / "closed_loop.toml"
RESULT = RESULTS / "closed-loop.json"
RECALL, PLAIN = ("recall:pydoc-topics", "recall:stdlib"), ("pydoc-topics", "stdlib")
CORPORA = ("recall:pydoc-topics", "pydoc-topics", "recall:stdlib", "stdlib")
"""smallest first: the share that a corpus cannot fill goes to the next"""
NO_THRESHOLDS = AllocatorConfig(expand_threshold=0, collapse_threshold=0, reversal_threshold=0)
NETWORKS = ("linear", "dual_cross_attention")
TARGETS = ("value", "priced", "literal")
REGULARISED = ("--set", "train.network.dropout=0.3", "--set", "train.optimiser.weight_decay=1.0")
"""for fewer than two hundred documents: with less, networks are at their best after half of the steps"""
AFFORDABLE = ("recency", "words", "told")
"""policies beside the checkpoints on fresh documents; hindsight costs a hundred times as much"""
LEADER = "dual_cross_attention-value"
"""the run whose network collects the on-policy labels"""
_KEPT = ("split", "corpus", "model", "gists", "block_size", "closed_loop", "allocator")
"""settings of a closed loop that its summary keeps"""
ON_VALUE = ("linear-value", LEADER, "on-policy")


@dataclass(frozen=True)
class Scale:
    """Sizes of the experiment's steps."""

    collected: tuple[int, int]
    """documents with labels: recall documents, plain ones"""
    led: tuple[int, int]
    """the same for on-policy labels"""
    actions: int
    """actions measured per context"""
    steps: int
    """optimiser steps per network"""
    documents: int
    """held-out documents in the loop"""
    fresh: int
    """further held-out documents, for the learned policies: no setting was chosen on them"""
    refocuses: int
    candidates: int
    """actions that hindsight measures exactly at a refocus"""
    choice_documents: int
    """held-out documents for the comparisons that need labels alone"""


SCALES = {
    # Minutes, to see that everything runs; six hours of one core; a night of a GPU.
    "smoke": Scale((12, 12), (12, 12), 4, 40, 4, 4, 2, 8, 2),
    "small": Scale((180, 60), (24, 8), 16, 800, 24, 24, 8, 16, 8),
    "full": Scale((600, 600), (600, 600), 96, 6000, 48, 96, 8, 24, 48),
}


def mctrace(*arguments: str) -> None:
    """Run the console script with this process's output."""
    command = [str(Path(sys.executable).with_name("mctrace")), *arguments]
    print("$ mctrace", *arguments, flush=True)
    subprocess.run(command, check=True)


def collect(scale: Scale, folder: Path, *, lensnet: Path | None = None) -> None:
    """Collect labels on documents of all corpora; on-policy labels of that checkpoint with `lensnet`."""
    policy = []
    if lensnet:
        policy = ["--set", 'collect.policies=["lensnet"]', "--set", f"collect.lensnet_checkpoint={lensnet}"]
    for paths, documents in zip((RECALL, PLAIN), scale.led if lensnet else scale.collected, strict=True):
        mctrace(
            "collect", "--no-ray", "--config", str(CONFIG), "--store", str(folder / "store"),
            *corpora(paths), "--limit", str(documents),
            "--set", f"collect.max_actions={scale.actions}", *policy,
        )  # fmt: skip


def corpora(paths: Sequence[str]) -> list[str]:
    return [argument for path in paths for argument in ("--corpus", path)]


def train(scale: Scale, folder: Path, name: str, network: str, target: str) -> Path:
    """Train the network on the target and return its best checkpoint; an interrupted run resumes."""
    run = folder / name
    if not (run / f"step_{scale.steps:07d}").is_dir():
        begun = "--resume" if any(run.glob("step_*")) else "--overwrite"
        mctrace(
            "train", "--config", str(CONFIG), "--store", str(folder / "store"), "--preset", "small",
            "--network", network, "--target", target, "--out", str(run), begun,
            "--set", f"train.optimiser.total_steps={scale.steps}", *REGULARISED,
        )  # fmt: skip
    return run / "best"


def evaluate(scale: Scale, folder: Path, checkpoints: Sequence[Path]) -> Mapping[str, Any]:
    """The closed loop of all policies and checkpoints on all corpora."""
    return run_loop(folder, "loop", loop_flags(scale), checkpoints)


def confirm(scale: Scale, folder: Path, checkpoints: Sequence[Path]) -> Mapping[str, Any]:
    """The closed loop of affordable policies on later documents, on which no setting was chosen."""
    flags = [*loop_flags(scale), "--set", f"closed_loop.documents={scale.fresh}"]
    flags += ["--set", f"closed_loop.skip={scale.documents}"]
    flags += ["--set", f"closed_loop.policies={json.dumps(AFFORDABLE)}"]
    return run_loop(folder, "fresh", flags, checkpoints)


def run_loop(folder: Path, out: str, flags: Sequence[str], checkpoints: Sequence[Path]) -> Mapping[str, Any]:
    """The answer of `mctrace evaluate --closed-loop` in the folder `out`; rows that are there stay."""
    mctrace(
        "evaluate", "--closed-loop", "--config", str(CONFIG), "--store", str(folder / "store"),
        *corpora(CORPORA), "--out", str(folder / out), *flags, *map(str, checkpoints),
    )  # fmt: skip
    answer: Mapping[str, Any] = json.loads((folder / out / "closed_loop.json").read_text())
    return answer


def loop_flags(scale: Scale) -> list[str]:
    settings = {
        "documents": scale.documents,
        "refocuses": scale.refocuses,
        "max_candidates": scale.candidates,
    }
    return [part for key, value in settings.items() for part in ("--set", f"closed_loop.{key}={value}")]


def count_labels(folder: Path) -> dict[str, dict[str, int]]:
    """Size of the training split: labels of fixed policies (`planned`) and on-policy ones (`led`)."""
    rows = fetch_rows(
        connect(open_store(str(folder / "store")).at()),
        """select if(policy = 'lensnet', 'led', 'planned') as kind, count(distinct document_id) as documents,
            count(distinct snapshot_id) as contexts, count(*) as labels
        from labels where split = 'train' group by kind""",
    )
    return {row.pop("kind"): row for row in rows}


def edit_choices(scale: Scale, folder: Path) -> dict[str, Any]:
    """Literal against priced and joint against single, on held-out documents."""
    flags = [flag for flag in loop_flags(scale) if flag != "--set"]
    flags += [f"closed_loop.documents={scale.choice_documents}"]
    paths = json.dumps(list(CORPORA))
    config = load_config(CONFIG, [*flags, f"corpus.paths={paths}"], {"store.uri": str(folder / "store")}, {})
    source = resolve_evaluable_model(config.model)
    provenance = provenance_of(source, config.model, config.gists, config.tree)
    loaded = bring_up(source, config.model, config.gists, provenance)
    model, batching = loaded.model, loaded.batching
    file = folder / f"choices-{config.closed_loop.max_candidates}.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    done = {row["document_id"]: row for row in map(json.loads, lines)}
    rows = []
    for document, loop in held_out_documents(
        source, config.corpus, config.tree, config.closed_loop, "test", config.store.uri
    ):
        identity = document.document_id
        if identity not in done:
            tree = embed_document(model, loaded.gistnet, document, config.tree)
            done[identity] = {
                "document_id": identity,
                "halves": half_collapsed(model, identity, tree, config, batching),
                "swaps": swaps(model, identity, tree, loop, config, batching),
            }
            with file.open("a", encoding="utf-8") as rest:
                rest.write(json.dumps(done[identity]) + "\n")
        rows.append(done[identity])
        print(f"edit choices: {len(rows)} documents", flush=True)
    return {
        "halves": summarise_halves({row["document_id"]: row["halves"] for row in rows}, 0),
        "swaps": summarise_swaps({row["document_id"]: row["swaps"] for row in rows}, 0),
    }


def run(name: str, folder: Path) -> dict[str, Any]:
    """Run every step that an earlier run has not finished, and return the results."""
    scale, started = SCALES[name], time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    choices = edit_choices(scale, folder)
    collect(scale, folder)
    checkpoints = [
        train(scale, folder, f"{network}-{target}", network, target)
        for network in NETWORKS
        for target in TARGETS
    ]
    leader = folder / LEADER / "best"
    collect(scale, folder, lensnet=leader)
    checkpoints.append(train(scale, folder, "on-policy", *LEADER.split("-")))
    answer = evaluate(scale, folder, checkpoints)
    by_value = [checkpoint for checkpoint in checkpoints if checkpoint.parent.name in ON_VALUE]
    return {
        "loop": summary(answer),
        "fresh": summary(confirm(scale, folder, by_value)),
        "edit_choices": choices,
        "greed": {
            "its thresholds": compare_greedy(AllocatorConfig()),
            "no thresholds": compare_greedy(NO_THRESHOLDS),
        },
        "measured": count_labels(folder),
        "scale": {"name": name, **asdict(scale)},
        "machine": machine(),
        "seconds": time.perf_counter() - started,
    }  # fmt: skip


def summary(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a closed loop's answer that the page needs, a line for each policy of a group."""
    return {
        **{name: answer[name] for name in _KEPT},
        "groups": {
            group: {
                "num_documents": max(found["nll"]["num_documents"] for found in policies.values()),
                "policies": {name: _policy_summary(name, found) for name, found in policies.items()},
            }
            for group, policies in answer["groups"].items()
        },
    }


def _policy_summary(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    intervals = ("nll", "less_than_recency", "less_than_recency_later", "share_of_hindsight")
    numbers = ("edits", "swaps", "residency", "budget_use", "seconds")
    kept: dict[str, Any] = {key: interval(found[key]) for key in intervals}
    kept |= {key: found[key] for key in numbers}
    if name == LEADER:
        others = found["less_than_others"].items()
        kept["less_than_others"] = {other: interval(gain) for other, gain in others}
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", choices=sorted(SCALES), default="small")
    parser.add_argument("--folder", type=Path, default=Path("runs/closed-loop"))
    arguments = parser.parse_args()
    result = run(arguments.scale, arguments.folder)
    write_results(RESULT, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
