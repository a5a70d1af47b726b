"""`make bench-evaluator`: the cost of a label, against the alternatives.

The same labels by five methods, interleaved in one process: (a) naive, a full forward pass per action and
snapshot; (b) prefix, a leave-one-out on transformers' own cache of a snapshot, cropped at every edit;
(c) one_cursor and (d) exact, this evaluator one snapshot at a time and for all cursors at once; (e) windowed.

Slow methods are timed on a seeded subset of the actions and scaled by planned FLOPs; every time is a median
over rounds. Rates are compared with the best float32 matrix-multiply rate found in the same run over the
model's own layer shapes. The last line printed is one JSON object, which is also written to
benchmarks/results/.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.evaluator_cases import (
    FULL,
    GPU,
    HORIZON,
    PROTECTED_TAIL,
    QUICK,
    RANDOM_1B,
    STRIDE,
    TREE,
    Case,
    make_documents,
    make_model,
)
from benchmarks.evaluator_methods import (
    Bench,
    exact_labels,
    flops_of,
    naive_label,
    prefix_losses,
    snapshots_of,
    work_of,
)
from benchmarks.machine import processor_name
from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.base_model.document_tree import DocumentTree
from mctrace.collect.measuring.estimator_agreement import LabelPair, compare_estimators
from mctrace.collect.measuring.evaluator import Batching, measure_baseline, measure_edits
from mctrace.collect.planning.edits import action_edit
from mctrace.context.actions import Action, is_legal_at
from mctrace.context.trajectory import Trajectory
from mctrace.seeding import generator_for

RESULTS = Path(__file__).parent / "results"
WINDOWS = (0, 32, 64, 128, 256)


@dataclass
class Timings:
    """Timings of one case, one value a round: seconds a trajectory by method, rates, differences in nats."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    flops_per_s: list[float] = field(default_factory=list)
    differences: list[Tensor] = field(default_factory=list)


def measure_case(
    bench: Bench, document: DocumentTree, case: Case, num_rounds: int, num_sampled: int
) -> dict[str, Any]:
    """One row of the table: seconds per label of the exact methods, scaled to the whole trajectory."""
    trajectory = case.trajectory()
    actions = trajectory.legal_actions(PROTECTED_TAIL)
    num_labels = sum(len(legal) for _, legal in snapshots_of(trajectory))
    # Evenly over the actions, which are ordered by kind and place.
    spread = np.linspace(0, len(actions) - 1, min(num_sampled, len(actions))).round().astype(int)
    sampled = [actions[i] for i in np.unique(spread)]
    generator, timings = generator_for("bench", case.map, case.num_tokens, case.num_cursors), Timings()
    for _ in range(num_rounds):
        bench.try_gemm()
        _time_round(bench, document, trajectory, sampled, num_labels, generator, timings)
    seconds = {way: statistics.median(values) for way, values in timings.seconds.items()}
    difference = torch.cat(timings.differences)
    return {
        "map": case.map, "N": case.num_tokens, "R": case.num_cursors,
        "num_entries": trajectory.head.num_entries, "num_actions": len(actions), "num_labels": num_labels,
        "num_actions_timed": len(sampled), "num_rounds": num_rounds,
        "seconds_per_label": {way: value / num_labels for way, value in seconds.items()},
        "tokens_per_label": work_of(bench, trajectory, actions).num_recomputed / num_labels,
        "labels_per_s": num_labels / seconds["exact"],
        **{f"exact_vs_{way}": seconds[way] / seconds["exact"] for way in ("naive", "prefix", "one_cursor")},
        "max_abs_diff_nats": float(difference.max()), "mean_abs_diff_nats": float(difference.mean()),
        "flops_per_s": statistics.median(timings.flops_per_s),
    }  # fmt: skip


def _time_round(
    bench: Bench,
    document: DocumentTree,
    trajectory: Trajectory,
    sampled: Sequence[Action],
    num_labels: int,
    generator: np.random.Generator,
    timings: Timings,
) -> None:
    """Each method once: at a random cursor where it takes only one, on a subset scaled by planned FLOPs."""
    early = [a for a in sampled if is_legal_at(a, TREE, trajectory.first_cursor, PROTECTED_TAIL)]
    cursor, action = int(generator.choice(trajectory.cursors)), early[int(generator.integers(len(early)))]
    snapshot = Trajectory(trajectory.head.extended(cursor), (cursor,), HORIZON)
    seconds, naive_delta_H = bench.seconds(partial(naive_label, bench, document, snapshot.head, action))
    timings.seconds["naive"].append(seconds / 2 * (num_labels + len(trajectory.cursors)))

    two = early[:: max(1, len(early) // 2)][:2]
    whole = sum(flops_of(bench, each, legal) for each, legal in snapshots_of(trajectory))
    for name, way in (("prefix", prefix_losses), ("one_cursor", exact_labels)):
        seconds, _ = bench.seconds(partial(way, bench, document, snapshot, two))
        timings.seconds[name].append(seconds * whole / flops_of(bench, snapshot, two))

    seconds, deltas = bench.seconds(partial(exact_labels, bench, document, trajectory, sampled))
    done, whole = (
        flops_of(bench, trajectory, some) for some in (sampled, trajectory.legal_actions(PROTECTED_TAIL))
    )
    timings.seconds["exact"].append(seconds * whole / done)
    timings.flops_per_s.append(done / seconds)
    first = cursor - trajectory.first_token_after(TREE.span(action.node)[1])
    found_H = deltas[sampled.index(action)][first : first + HORIZON]
    timings.differences.append((found_H - naive_delta_H).abs().cpu())


def measure_windowed(
    bench: Bench,
    documents: Sequence[DocumentTree],
    case: Case,
    windows: Sequence[int],
    num_actions: int,
) -> list[dict[str, Any]]:
    """The windowed estimator against the exact one on the same actions of several documents."""
    seconds: dict[int | None, list[float]] = {window: [] for window in (None, *windows)}
    pairs: dict[int, list[LabelPair]] = {window: [] for window in windows}
    trajectory = case.trajectory()
    legal = [
        action
        for action in trajectory.legal_actions(PROTECTED_TAIL)
        if is_legal_at(action, TREE, trajectory.first_cursor, PROTECTED_TAIL)
    ]
    for number, document in enumerate(documents):
        generator = generator_for("windowed", case.num_tokens, number)
        count = min(len(legal), -(-num_actions // len(documents)))
        chosen = [legal[i] for i in sorted(generator.choice(len(legal), count, replace=False))]
        edits = [action_edit(trajectory, action) for action in chosen]
        baseline = measure_baseline(bench.model, document, trajectory)
        exact: Sequence[Tensor] = ()
        for window in (None, *windows):
            batching = Batching(bench.model.batch_tokens)
            way = partial(measure_edits, bench.model, document, trajectory, edits, baseline, batching)
            took, measured = bench.seconds(partial(way, window=window))
            seconds[window].append(took)
            exact = measured.deltas if window is None else exact
            if window is not None:
                pairs[window] += [
                    LabelPair(a.kind, a.node.level, _label(e), _label(w))
                    for a, e, w in zip(chosen, exact, measured.deltas, strict=True)
                ]
    rows = []
    for window in windows:
        fidelity = compare_estimators(pairs[window])
        speedup = statistics.median(e / w for e, w in zip(seconds[None], seconds[window], strict=True))
        rows.append({"map": case.map, "N": case.num_tokens, "R": case.num_cursors, "window": window,
                     "speedup_over_exact": speedup, **asdict(fidelity)})  # fmt: skip
    return rows


def _label(delta_H: Tensor) -> float:
    """A label at the first cursor's horizon."""
    return float(delta_H[:HORIZON].mean())


def run(model_name: str, dtype: str, device: str, quick: bool) -> Iterator[dict[str, Any]]:
    """All cases of a mode. Yields the result so far after each, so that an interrupted run keeps it."""
    bench, started = Bench(make_model(model_name, dtype, device)), time.perf_counter()
    rows: list[dict[str, Any]] = []
    windowed: list[dict[str, Any]] = []

    def result(is_complete: bool) -> dict[str, Any]:
        of_peak = [{**row, "mfu": row["flops_per_s"] / bench.gemm_flops} for row in rows]
        return {
            "cases": of_peak, "windowed": windowed, "gemm_tflops": bench.gemm_flops / 1e12,
            "model": model_name, "dtype": dtype, "horizon": HORIZON, "cursor_stride": STRIDE,
            "machine": _machine(bench.model), "seconds": time.perf_counter() - started, "quick": quick,
            "is_complete": is_complete,
        }  # fmt: skip

    on_gpu = bench.model.device.type == "cuda"
    cases = QUICK if quick else GPU if on_gpu else FULL
    longest = max(case.num_tokens + STRIDE * case.num_cursors for case in cases) + HORIZON
    (document,) = make_documents(bench.model, model_name, 1, longest)
    warm_up = cases[0].trajectory()
    exact_labels(bench, document, warm_up, warm_up.legal_actions(PROTECTED_TAIL)[:2])
    for case in cases:
        num_sampled = 4 if case.num_tokens > 2000 else 8
        rows.append(_printed(measure_case(bench, document, case, 2 if quick else 3, num_sampled)))
        yield result(False)
    for num_tokens, num_cursors, num_documents in (
        ((512, 1, 4),) if quick else ((8192, 8, 1),) if on_gpu else ((1024, 8, 4), (4096, 8, 2))
    ):
        case = Case("level0", num_tokens, num_cursors)
        num_needed = num_tokens + STRIDE * num_cursors + HORIZON
        documents = make_documents(bench.model, model_name, num_documents, num_needed)
        windows, num_actions = ((0, 64), 32) if quick else (WINDOWS, 104)
        windowed += map(_printed, measure_windowed(bench, documents, case, windows, num_actions))
        yield result(False)
    yield result(True)


def _printed(row: dict[str, Any]) -> dict[str, Any]:
    """The row, after printing it as progress of a long run."""
    shown = {key: round(value, 6) if isinstance(value, float) else value for key, value in row.items()}
    print(json.dumps(shown), flush=True)
    return row


def result_name(result: dict[str, Any]) -> str:
    """File name of a result without its suffix; CPU and GPU results have names of their own."""
    return f"evaluator-{result['model']}-{result['dtype']}-{result['machine']['kind']}"


def _machine(model: FrozenCausalLM) -> dict[str, Any]:
    is_gpu = model.device.type == "cuda"
    return {
        "kind": model.device.type,
        "device": torch.cuda.get_device_name(model.device) if is_gpu else processor_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="minutes on two cores; kept only with --out")
    parser.add_argument("--model", default="smollm2-135m", help=f"alias, folder, hub id or {RANDOM_1B}")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--out", type=Path, default=None, help="JSON file [benchmarks/results/evaluator-*.json]"
    )
    arguments = parser.parse_args()
    for result in run(arguments.model, arguments.dtype, arguments.device, arguments.quick):
        if arguments.out or not arguments.quick:
            out = arguments.out or RESULTS / f"{result_name(result)}.json"
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
