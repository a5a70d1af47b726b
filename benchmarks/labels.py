"""`make bench-labels`: what a label costs by each estimator, and what it finds.

On sources of the standard library with the shipped gists: the naive evaluation, exact labels, windowed ones,
the gradient estimator and screening (all actions by gradient, a quarter exactly), against exact labels of a
seeded sample of each context's actions. Costs are processor seconds, scaled from the sample to all actions by
planned FLOPs. Each context is measured once and kept in `--kept`, so that a run goes on where it stopped. The
last line printed is one JSON object; every row says on how many actions of how many documents it rests.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.evaluator_cases import HORIZON, PROTECTED_TAIL, TREE, Case, make_documents, make_model
from benchmarks.machine import processor_name
from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.base_model.document_tree import DocumentTree
from mctrace.collect.measuring.estimator_agreement import LabelPair, compare_estimators
from mctrace.collect.measuring.evaluator import Batching, measure_baseline, measure_edits
from mctrace.collect.measuring.gradient_estimator import estimate_edits
from mctrace.collect.measuring.naive_evaluator import naive_nll
from mctrace.collect.planning.edits import Edit, action_edit
from mctrace.collect.planning.forward_passes import plan_passes
from mctrace.context.actions import Action, apply_action
from mctrace.gists.network.gistnet import build_tree
from mctrace.gists.network.loading import load_gistnet
from mctrace.seeding import generator_for

MODEL = "smollm2-135m"
WINDOWS = (0, 128)
SCREENED_SHARE = 0.25
FULL = [Case("level0", tokens, cursors) for tokens in (1024, 4096, 8192) for cursors in (1, 8, 32)]
QUICK = [Case("level0", 512, 1)]


def measured_context(
    model: FrozenCausalLM, document: DocumentTree, case: Case, number: int, num_sampled: int
) -> dict[str, Any]:
    """Labels at the first cursor by every estimator, and processor seconds for the whole trajectory."""
    trajectory = case.trajectory()
    if trajectory.end > model.max_positions:
        raise SystemExit(f"{case} needs {trajectory.end} positions, the model has {model.max_positions}")
    legal = trajectory.legal_actions(PROTECTED_TAIL)
    latest = trajectory.first_cursor - PROTECTED_TAIL
    early = [i for i, action in enumerate(legal) if TREE.span(action.node)[1] <= latest]
    generator = generator_for("bench labels", case.map, case.num_tokens, case.num_cursors, number)
    sample = sorted(generator.choice(early, min(num_sampled, len(early)), replace=False).tolist())
    edits = [action_edit(trajectory, action) for action in legal]
    chosen = [edits[i] for i in sample]
    size = model.size.flops

    def planned(some: Sequence[Edit], window: int | None) -> float:
        passes = plan_passes(trajectory, some, window, model.batch_tokens)
        return sum(size(p.work) for p in passes)

    seconds, labels = {}, {}
    seconds["gradient"], estimated = timed(
        lambda: estimate_edits(model, document, trajectory, edits, Batching(model.batch_tokens))
    )
    labels["gradient"] = [mean_label(estimated.deltas[i]) for i in sample]
    of_baseline, baseline = timed(lambda: measure_baseline(model, document, trajectory))
    for name, window in (("exact", None), *((f"windowed {r}", r) for r in WINDOWS)):
        taken, found = timed(
            lambda window=window: measure_edits(
                model, document, trajectory, chosen, baseline, Batching(model.batch_tokens), window=window
            )
        )
        seconds[name] = of_baseline + taken * planned(edits, window) / planned(chosen, window)
        labels[name] = [mean_label(delta_H) for delta_H in found.deltas]
    seconds["screened"] = seconds["gradient"] + SCREENED_SHARE * seconds["exact"]
    labels["screened"] = labels["gradient"]
    seconds["naive"] = naive_seconds(model, document, case, legal[sample[0]], len(legal))
    labels["naive"] = labels["exact"]
    return {
        "map": case.map, "N": case.num_tokens, "R": case.num_cursors, "document": number,
        "num_actions": len(sample), "num_legal": len(legal), "seconds": seconds, "labels": labels,
    }  # fmt: skip


def naive_seconds(
    model: FrozenCausalLM, document: DocumentTree, case: Case, action: Action, num_legal: int
) -> float:
    """A whole pass per action and snapshot, and one per snapshot: one of them timed."""
    head = apply_action(case.trajectory().head, action)
    taken, _ = timed(lambda: naive_nll(model, document, head, HORIZON))
    return taken * case.num_cursors * (num_legal + 1)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds, which other programs on the machine do not lengthen as they do the wall's."""
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def mean_label(delta_nll_H: Tensor) -> float:
    return float(delta_nll_H[:HORIZON].float().mean())


def rows_of(contexts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per case and estimator; correlations within each context, averaged by numbers of actions."""
    cases = defaultdict(list)
    for context in contexts:
        cases[context["map"], context["N"], context["R"]].append(context)
    rows = []
    for (name, num_tokens, num_cursors), found in sorted(cases.items()):
        for estimator in found[0]["labels"]:
            cost = sum(c["seconds"][estimator] for c in found) / sum(c["seconds"]["exact"] for c in found)
            rows.append(
                {"map": name, "N": num_tokens, "R": num_cursors, "estimator": estimator,
                 "cost_over_exact": cost, **fidelity(found, estimator), "num_documents": len(found)}
            )  # fmt: skip
    return rows


def fidelity(contexts: Sequence[dict[str, Any]], estimator: str) -> dict[str, float | int | None]:
    """Agreement of an estimator's labels with exact ones. `top_tenth_recall` of screening is the share of the
    exact top tenth among the quarter with the largest estimates; otherwise among the estimate's top tenth."""
    spearman, pearson, recall, counts = [], [], [], []
    for context in contexts:
        exact, estimated = (np.array(context["labels"][name]) for name in ("exact", estimator))
        pairs = [LabelPair("collapse", 1, e, g) for e, g in zip(exact, estimated, strict=True)]
        (stratum,) = compare_estimators(pairs).strata
        if stratum.spearman is None or stratum.pearson is None:
            continue
        spearman.append(stratum.spearman)
        pearson.append(stratum.pearson)
        share = SCREENED_SHARE if estimator == "screened" else 0.1
        recall.append(top_recall(exact, estimated, share))
        counts.append(stratum.num_actions)
    means = [float(np.average(v, weights=counts)) if counts else None for v in (spearman, pearson, recall)]
    return {
        "spearman": means[0], "pearson": means[1], "top_tenth_recall": means[2],
        "num_actions": sum(len(c["labels"]["exact"]) for c in contexts),
    }  # fmt: skip


def top_recall(exact_A: np.ndarray, estimated_A: np.ndarray, share: float) -> float:
    """Share of the tenth with the largest |exact| that is among the `share` with the largest |estimate|."""
    wanted, kept = (max(1, round(part * len(exact_A))) for part in (0.1, share))
    top, found = (set(np.argsort(-np.abs(v), kind="stable")[:k].tolist())
                  for v, k in ((exact_A, wanted), (estimated_A, kept)))  # fmt: skip
    return len(top & found) / len(top)


def run(cases: Sequence[Case], kept: Path | None, num_documents: int, num_sampled: int) -> dict[str, Any]:
    contexts = []
    if kept is not None and kept.exists():
        contexts = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()]
    done = {(c["map"], c["N"], c["R"], c["document"]) for c in contexts}
    model, gistnet = make_model(MODEL, "float32", "auto"), load_gistnet("smollm2-135m-k32")
    for case in cases:
        ends = case.trajectory().end
        if ends > model.max_positions:
            print(f"left out: {case} needs {ends} positions, {MODEL} has {model.max_positions}", flush=True)
            continue
        for number, plain in enumerate(make_documents(model, MODEL, num_documents, ends)):
            if (case.map, case.num_tokens, case.num_cursors, number) in done:
                continue
            document = DocumentTree(plain.tokens_T, build_tree(gistnet, plain.embeddings[0], TREE))
            context = measured_context(model, document, case, number, num_sampled)
            contexts.append(context)
            print(f"{case}, document {number}: {context['num_actions']} actions", flush=True)
            if kept is not None:
                kept.parent.mkdir(parents=True, exist_ok=True)
                with kept.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(context) + "\n")
    asked = {(case.map, case.num_tokens, case.num_cursors) for case in cases}
    machine = {"device": processor_name(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    shown = [c for c in contexts if (c["map"], c["N"], c["R"]) in asked]
    return {"benchmark": "labels", "machine": machine, "estimators": rows_of(shown)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one short case, kept only with --kept")
    parser.add_argument("--kept", type=Path, help="measured contexts [benchmarks/results/labels.jsonl]")
    parser.add_argument("--documents", type=int, default=0, help="contexts of each case [6, quick 2]")
    parser.add_argument(
        "--actions", type=int, default=0, help="actions measured exactly in each [50, quick 12]"
    )
    parser.add_argument("--case", nargs=2, type=int, metavar=("N", "R"), help="this level-0 case alone")
    asked = parser.parse_args()
    kept = asked.kept or (None if asked.quick else Path(__file__).parent / "results" / "labels.jsonl")
    cases = [Case("level0", *asked.case)] if asked.case else QUICK if asked.quick else FULL
    documents = asked.documents or (2 if asked.quick else 6)
    print(json.dumps(run(cases, kept, documents, asked.actions or (12 if asked.quick else 50))))


if __name__ == "__main__":
    main()
