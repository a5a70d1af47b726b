"""`make bench-labels`: what a label costs by each estimator, and what it finds.

On sources of the standard library with the shipped gists: the naive evaluation, exact labels, windowed ones,
the gradient estimator and screening (all actions by gradient, a quarter exactly), against exact labels of a
seeded sample of each context's actions. Costs are processor seconds, scaled from the sample to all actions by
planned FLOPs. Each context is measured once and kept in `--kept`, so that a run goes on where it stopped.

Then the same LensNet is trained on what each estimator buys at equal compute (`equal_compute.py`; alone with
`--equal-compute`, not at all with `--case`), at the prices just measured, in stores kept in `--folder`.

Results go to `--out`, from which `benchmarks.labels_page` makes a page; the last line printed is one JSON
object. Every row says on how many actions of how many documents it rests.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.equal_compute import ARMS, Prices, Setting, equal_compute
from benchmarks.evaluator_cases import HORIZON, PROTECTED_TAIL, TREE, Case, make_documents, make_model
from benchmarks.exact_floor import exact_floor
from benchmarks.labels_fidelity import SCREENED_SHARE, rows_of
from benchmarks.machine import processor_name
from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.base_model.document_tree import DocumentTree
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
FULL = [Case("level0", tokens, cursors) for tokens in (1024, 4096, 8192) for cursors in (1, 8, 32)]
QUICK = [Case("level0", 512, 1)]
PRICED, QUICK_PRICED = Case("level0", 1024, 1), QUICK[0]
"""the case in which equal compute is compared"""
RESULTS = Path(__file__).parent / "results"


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


def measure(
    cases: Sequence[Case], kept: Path | None, num_documents: int, num_sampled: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Contexts of the cases, those in `kept` read and others measured, and what is left for exact labels."""
    contexts = kept_contexts(kept)
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
    floors = [
        exact_floor(case, model.size.flops, model.batch_tokens) for case in cases if case.num_cursors == 1
    ]
    return [c for c in contexts if (c["map"], c["N"], c["R"]) in asked], floors


def kept_contexts(kept: Path | None) -> list[dict[str, Any]]:
    if kept is None or not kept.exists():
        return []
    return [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()]


def priced(contexts: Sequence[dict[str, Any]], case: Case) -> Prices:
    """Prices in that case. Ends the program where it was not measured."""
    found = [
        c for c in contexts if (c["map"], c["N"], c["R"]) == (case.map, case.num_tokens, case.num_cursors)
    ]
    if not found:
        raise SystemExit(f"equal compute is compared at {case}, which is not measured: run with --case "
                         f"{case.num_tokens} {case.num_cursors} first")  # fmt: skip
    return Prices.of(found)


def main() -> None:
    asked = _arguments()
    kept = asked.kept or (None if asked.quick else RESULTS / "labels.jsonl")
    out = asked.out or (None if asked.quick else RESULTS / "labels.json")
    result: dict[str, Any] = json.loads(out.read_text()) if out and out.exists() else {"benchmark": "labels"}
    result["machine"] = {
        "device": processor_name(), "threads": torch.get_num_threads(), "torch": torch.__version__,
    }  # fmt: skip
    cases = [Case("level0", *asked.case)] if asked.case else QUICK if asked.quick else FULL
    case, arms = (QUICK_PRICED, ("exact", "dense")) if asked.quick else (PRICED, tuple(ARMS))
    contexts = kept_contexts(kept)
    if not asked.equal_compute:
        number, sampled = (
            asked.documents or (2 if asked.quick else 6),
            asked.actions or (12 if asked.quick else 50),
        )
        contexts, floors = measure(cases, kept, number, sampled)
        result |= {
            "estimators": merged(result.get("estimators", []), rows_of(contexts)),
            "exact_floor": merged(result.get("exact_floor", []), floors),
        }
        write(result, out)
    if not asked.case:
        num_exact, num_held_out, seeds, steps = (14, 3, 1, 10) if asked.quick else (60, 40, 3, 400)
        setting = Setting(
            case.num_tokens,
            asked.exact_documents or num_exact,
            asked.held_out or num_held_out,
            asked.seeds or seeds,
            steps,
            tuple(asked.arm or arms),
        )
        folder = asked.folder or Path("runs/labels-quick" if asked.quick else "runs/labels")
        result |= equal_compute(setting, priced(contexts, case), folder)
        write(result, out)
    print(json.dumps(result))


def merged(before: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of earlier runs that these do not replace, and these."""
    keys = ("map", "N", "R", "estimator")
    new = {tuple(row.get(key) for key in keys) for row in rows}
    kept = [row for row in before if tuple(row.get(key) for key in keys) not in new]
    return sorted([*kept, *rows], key=lambda row: (row["map"], row["N"], row["R"]))


def write(result: dict[str, Any], out: Path | None) -> None:
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="short cases, kept only with --kept and --out")
    parser.add_argument("--kept", type=Path, help="measured contexts [benchmarks/results/labels.jsonl]")
    parser.add_argument("--out", type=Path, help="JSON file [benchmarks/results/labels.json]")
    parser.add_argument("--documents", type=int, help="contexts of each case [6, quick 2]")
    parser.add_argument("--actions", type=int, help="actions measured exactly in each [50, quick 12]")
    parser.add_argument("--case", nargs=2, type=int, metavar=("N", "R"), help="this level-0 case alone")
    parser.add_argument("--equal-compute", action="store_true", help="equal compute alone, at kept prices")
    parser.add_argument("--folder", type=Path, help="stores and runs of equal compute [runs/labels]")
    parser.add_argument("--arm", action="append", choices=tuple(ARMS), help="an arm of it (repeatable) [all]")
    parser.add_argument("--exact-documents", type=int, help="its budget in exact documents [60, quick 14]")
    parser.add_argument("--held-out", type=int, help="its held-out documents [40, quick 3]")
    parser.add_argument("--seeds", type=int, help="its runs of each arm [3, quick 1]")
    return parser.parse_args()


if __name__ == "__main__":
    main()
