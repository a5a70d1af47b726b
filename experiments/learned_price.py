"""`make learned-price`: does a LensNet with a learned price do as well as one whose price is searched for?

Protocol. The rule of decision was written before the first run. While networks were trained, and before any
held-out figure was computed, runs with robust losses were dropped and `priced` and `literal` cut to one seed.

The first run kept `value`: the other's utility correlation was lower, its interval below 0. Values and price
had gradients of their own, but one norm was clipped, and the best checkpoint was that of all four losses
together: the price decided how far the values learned. Both are apart now, by which values with a price are
learned as values without are; a test holds that. This is the second run, by the same rule on the same labels.
Its loop was run on 6 documents first and left the question open (learned less searched, -0.017
[-0.056, +0.008]); before any further figure was seen it was set to 24.

After the second run: as both targets give the same values now, the default target is `value_and_price`, in
whose training all four losses are at work, and what the rule decides is by whose price edits are chosen.

*Labels*: those that `make absent` left: exact ones of inserts and drops, on truncated contexts
and on random ones, of recall documents and plain ones. Documents of the test split are never trained on.

*Runs*: the default network under the small preset with the regularisation of the closed loop, on `value` and
`value_and_price` with each seed of SEEDS, the same labels, steps and order of batches. `priced` and `literal`
are shown beside them with one seed each and decide nothing.

*Compared*, always paired by document, a document's value being the mean over seeds, with 95% bootstrap
intervals over documents:

1. agreement with held-out values of detail (`utility_correlation`, `ranking_accuracy`, `kendall_tau`, and
   `mse` where a network learned values), all networks judged on the same labels;
2. the gain of one refocus by those labels: the allocator, at its defaults and at a context's own size, edits
   each held-out context by a network's scores of the measured actions; the gain is the sum of the labels of
   its edits, nats per token. `value_and_price` both with its own price and with a searched one;
3. the closed loop: nats per token of the base model on the next K tokens, on a few held-out documents.

*Decision*: `value_and_price` becomes the default if all of this holds for it less `value`: the intervals of
`utility_correlation` and of `ranking_accuracy` lie above -0.02, that of the closed loop over all documents
above -0.02 nats per token (better is positive), and its mean gain of one refocus is not below that of `value`
by more than a tenth. Then all four losses are at work at no loss that this experiment could see. Otherwise
`value` stays.

Besides, one checkpoint of the transformer on `value` goes through the same loop.

Every step runs through the console script or resumes as it does; results/learned-price.json keeps what
`learned_price_page` shows.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments import absent
from experiments.closed_loop import CORPORA, corpora, mctrace
from experiments.result_files import RESULTS, interval, machine, write_results
from experiments.train_compare import TARGETS, Combination, train_one
from mctrace.context.actions import Action, ActionKind
from mctrace.context.allocator import AllocatorConfig, allocate
from mctrace.context.allocator_candidates import Candidates, candidates_of
from mctrace.context.pricing import subtract_price
from mctrace.context.tree import Node
from mctrace.datasets.batches.collate import ordered_batches
from mctrace.datasets.batches.context_tensors import Context
from mctrace.datasets.batches.label_files import LabelledSnapshot
from mctrace.datasets.batches.label_reader import TrainingData, open_training_data
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store.store import open_store
from mctrace.seeding import generator_for
from mctrace.train.config import small_preset
from mctrace.train.evaluation.split_evaluation import evaluate_all, score_function
from mctrace.train.evaluation.statistics import bootstrap_interval
from mctrace.train.inference import Price
from mctrace.train.objectives.config import ObjectiveConfig
from mctrace.train.objectives.lensnet_gradients import Examples
from mctrace.train.serving.scorer import Scorer

RESULT = RESULTS / "learned-price.json"
SEEDS = (0, 1, 2)
METRICS = ("utility_correlation", "ranking_accuracy", "kendall_tau", "mse")
LEARNED, SEARCHED = COMPARED = ("value_and_price", "value")
GROUPS = {"all": "all documents", "recall": "recall documents", "other": "sources and prose"}
DROPOUT, WEIGHT_DECAY = 0.3, 1.0
"""those of the closed loop, for fewer than two hundred documents"""
BASELINES = ("lod0", "recency")

_OTHER_SCALE = ("priced", "literal")
"""targets whose scores are no values of detail, so that their distance from values says nothing"""

_DETAIL: tuple[ActionKind, ActionKind] = ("expand", "collapse")
_ABSENCE: tuple[ActionKind, ActionKind] = ("insert", "drop")

PerDocument = Mapping[str, float]


@dataclass(frozen=True)
class Scale:
    """Sizes of the experiment's steps."""

    steps: int
    documents: int
    """held-out documents in the loop"""
    refocuses: int


SCALES = {
    # That it runs at all, in minutes; an hour of one core, once labels are there; a night.
    "smoke": Scale(20, 2, 2),
    "small": Scale(300, 24, 3),
    "full": Scale(800, 24, 8),
}


def planned_runs(scale: Scale) -> dict[str, list[Combination]]:
    """The targets' runs, one for each seed, and the other objectives' and network's, by name."""
    runs = {
        target: [
            planned_run(scale, target, target, seed) for seed in SEEDS if seed == 0 or target in COMPARED
        ]
        for target in TARGETS
    }
    transformer = small_preset("transformer").network
    return runs | {"transformer": [planned_run(scale, "transformer", SEARCHED, 0, network=transformer)]}


def planned_run(scale: Scale, name: str, target: str, seed: int, **changes: Any) -> Combination:
    preset = small_preset()
    optimiser = replace(
        preset.optimiser,
        total_steps=scale.steps,
        warmup_steps=min(preset.optimiser.warmup_steps, scale.steps),
        weight_decay=WEIGHT_DECAY,
    )
    train = replace(preset, target=target, seed=seed, device="cpu", optimiser=optimiser, **changes)
    train = replace(train, network=replace(train.network, dropout=DROPOUT))
    return Combination(target, name, train)


def train(labels: Path, folder: Path, runs: Mapping[str, Sequence[Combination]]) -> dict[str, list[Path]]:
    """Train what is not trained yet; the best checkpoints by name."""
    found: dict[str, list[Path]] = {}
    for name, some in runs.items():
        for one in some:
            why = train_one(str(labels / "store"), folder, one)
            if why:
                raise SystemExit(f"{name}: {why}")
            found.setdefault(name, []).append(folder / one.target / one.run_name / "best")
            print(f"trained: {one.run_name}", flush=True)
    return found


def agreement(data: TrainingData, checkpoints: Mapping[str, Sequence[Path]]) -> dict[str, Any]:
    """Metrics of each target's networks on the same held-out values of detail, by document."""
    scorers = {
        f"{name} {number}": score_function(Scorer.from_pretrained(folder).network)
        for name, folders in checkpoints.items()
        for number, folder in enumerate(folders)
    }
    examples = (Examples(labels=batch) for batch in ordered_batches(data, "test", 8))
    results = evaluate_all(scorers, examples, ObjectiveConfig())
    return {
        metric: {
            name: _mean_over_seeds(
                [results[f"{name} {number}"].per_document[metric] for number in range(len(folders))]
            )
            for name, folders in checkpoints.items()
            if metric != "mse" or name not in _OTHER_SCALE
        }
        for metric in METRICS
    }


def refocus_gains(data: TrainingData, checkpoints: Mapping[str, Sequence[Path]]) -> dict[str, PerDocument]:
    """Gain of one refocus by the labels, nats per token, by document; also by chance and by the labels."""
    gains: dict[str, list[PerDocument]] = {}
    for name, folders in checkpoints.items():
        for folder in folders:
            scorer = Scorer.from_pretrained(folder)
            gains.setdefault(name, []).append(_gains(data, _by_network(scorer, "learned")))
            if name == LEARNED:
                searched = _gains(data, _by_network(scorer, "searched"))
                gains.setdefault(f"{name}, price searched", []).append(searched)
    gains["chance"] = [_gains(data, _by_chance)]
    gains["the labels themselves"] = [_gains(data, _by_labels(data.utility_scale))]
    return {name: _mean_over_seeds(found) for name, found in gains.items()}


Choice = Callable[[LabelledSnapshot, Context, Mapping[Action, float]], Candidates]
"""signed scores of a context's actions, given its labels"""


def _by_network(scorer: Scorer, price: Price) -> Choice:
    def choice(snapshot: LabelledSnapshot, context: Context, _: Mapping[Action, float]) -> Candidates:
        return scorer.candidates(context, budget=context.lod_map.num_entries, price=price)

    return choice


def _by_chance(snapshot: LabelledSnapshot, context: Context, _: Mapping[Action, float]) -> Candidates:
    found = candidates_of(context.lod_map, context.protected_tail)
    return replace(found, score_A=generator_for("by chance", snapshot.snapshot_id, 0).normal(size=len(found)))


def _by_labels(scale: float) -> Choice:
    def choice(snapshot: LabelledSnapshot, context: Context, values: Mapping[Action, float]) -> Candidates:
        found = candidates_of(context.lod_map, context.protected_tail)
        return subtract_price(found.rescored({one: value / scale for one, value in values.items()}), 0)

    return choice


def _gains(data: TrainingData, choice: Choice) -> PerDocument:
    found: dict[str, list[float]] = defaultdict(list)
    for snapshot in data.snapshots("test"):
        document = data.arrays.document(snapshot.document_id, snapshot.head.provenance)
        context = document.context(snapshot.lod_map, snapshot.head.protected_tail)
        values = _values(snapshot)
        scored = choice(snapshot, context, values)
        of_action = {scored.actions.action(i): float(score) for i, score in enumerate(scored.score_A)}
        measured = scored.rescored({one: of_action[one] for one in values if one in of_action})
        edits = allocate(context.lod_map, measured, context.lod_map.num_entries, AllocatorConfig()).edits
        gain = sum(values[edit] * (1 if edit.shows_more else -1) for edit in edits)
        found[snapshot.document_id].append(gain)
    return {document: fmean(some) for document, some in found.items()}


def _values(snapshot: LabelledSnapshot) -> dict[Action, float]:
    """Measured value of detail of each action, nats per token."""
    found, labels = {}, snapshot.labels
    for i, value in enumerate(labels.utility):
        kinds = _ABSENCE if labels.is_absence[i] else _DETAIL
        node = Node(int(labels.node_level[i]), int(labels.node_index[i]))
        action = Action(kinds[0 if labels.is_expand[i] else 1], node, int(labels.entry_level[i]))
        found[action] = float(value)
    return found


def loop(scale: Scale, labels: Path, folder: Path, checkpoints: Iterable[Path]) -> Mapping[str, Any]:
    """The closed loop of the baselines and the checkpoints; rows that are there stay."""
    mctrace(
        "evaluate", "--closed-loop", "--config", str(absent.CONFIG), "--store", str(labels / "store"),
        *corpora(CORPORA), "--out", str(folder / "loop"),
        "--set", f"closed_loop.policies={json.dumps(BASELINES)}",
        "--set", f"closed_loop.documents={scale.documents}",
        "--set", f"closed_loop.refocuses={scale.refocuses}", "--set", "closed_loop.price=learned",
        *map(str, checkpoints),
    )  # fmt: skip
    answer: Mapping[str, Any] = json.loads((folder / "loop" / "closed_loop.json").read_text())
    return answer


def loop_losses(folder: Path, runs: Mapping[str, Sequence[Combination]]) -> dict[str, dict[str, PerDocument]]:
    """Group -> name -> document -> loss after a refocus, nats per token, the mean over seeds.

    Of the documents that every policy has run on: a loop on others may have left rows, too.
    """
    lines = (folder / "loop" / "closed_loop.jsonl").read_text(encoding="utf-8").splitlines()
    by_policy: dict[str, dict[str, float]] = defaultdict(dict)
    is_recall: dict[str, bool] = {}
    for row in map(json.loads, lines):
        document = row["document_id"]
        by_policy[row["policy"]][document] = fmean(step["nll"] for step in row["refocuses"])
        is_recall[document] = row["source"].startswith("recall:")
    of_all = set(is_recall).intersection(*by_policy.values())
    is_recall = {document: is_recall[document] for document in of_all}
    names = {name: [one.run_name for one in some] for name, some in runs.items()}
    names = {name: some for name, some in names.items() if all(one in by_policy for one in some)}
    names |= {name: [name] for name in BASELINES}
    losses = {name: _mean_over_seeds([by_policy[one] for one in some]) for name, some in names.items()}
    groups = {"all": set(is_recall), "recall": {d for d, recall in is_recall.items() if recall}}
    groups["other"] = groups["all"] - groups["recall"]
    return {
        group: {name: {d: found[d] for d in found if d in members} for name, found in losses.items()}
        for group, members in groups.items()
    }


def _mean_over_seeds(found: Sequence[PerDocument]) -> PerDocument:
    """Mean of each document that every seed has a value for."""
    shared = set(found[0]).intersection(*found)
    return {document: fmean(one[document] for one in found) for document in sorted(shared)}


def less(one: PerDocument, other: PerDocument) -> list[float] | None:
    """[mean, low, high] of the difference within documents."""
    return _interval({document: one[document] - other[document] for document in one if document in other})


def intervals(found: Mapping[str, PerDocument]) -> dict[str, list[float] | None]:
    """[mean, low, high] by name."""
    return {name: _interval(values) for name, values in found.items()}


def _interval(values: PerDocument) -> list[float] | None:
    return interval(asdict(bootstrap_interval(values, 0))) if values else None


def judged(
    held_out: Mapping[str, Mapping[str, PerDocument]],
    gains: Mapping[str, PerDocument],
    losses: Mapping[str, Mapping[str, PerDocument]],
) -> dict[str, Any]:
    """Intervals of everything, the paired differences, and the decision of the protocol."""
    of_loop = {
        group: {name: less(found["recency"], values) for name, values in found.items() if name != "recency"}
        for group, found in losses.items()
    }
    differences = {metric: less(found[LEARNED], found[SEARCHED]) for metric, found in held_out.items()}
    differences["gain of one refocus"] = less(gains[LEARNED], gains[SEARCHED])
    for group, found in losses.items():
        differences[f"closed loop, {GROUPS[group]}"] = less(found[SEARCHED], found[LEARNED])
    mean_gain = {name: fmean(found.values()) for name, found in gains.items()}
    checks = {
        "utility_correlation": _low(differences["utility_correlation"]) > -0.02,
        "ranking_accuracy": _low(differences["ranking_accuracy"]) > -0.02,
        "gain of one refocus": mean_gain[LEARNED] >= mean_gain[SEARCHED] - 0.1 * abs(mean_gain[SEARCHED]),
        "closed loop": _low(differences[f"closed loop, {GROUPS['all']}"]) > -0.02,
    }
    return {
        "held_out": {metric: intervals(found) for metric, found in held_out.items()},
        "gains": intervals(gains),
        "loop": of_loop,
        "loop_documents": {group: len(found["recency"]) for group, found in losses.items()},
        "differences": differences,
        "checks": checks,
        "decision": LEARNED if all(checks.values()) else SEARCHED,
    }


def _low(found: list[float] | None) -> float:
    return found[1] if found else float("-inf")


def count_labels(labels: Path) -> list[dict[str, Any]]:
    """Labels of each split."""
    return fetch_rows(
        connect(open_store(str(labels / "store")).at()),
        """select split, count(distinct document_id) as documents, count(distinct snapshot_id) as contexts,
            count(*) as labels from labels group by split order by split""",
    )


def run(name: str, labels: Path, folder: Path) -> dict[str, Any]:
    """Run every step that an earlier run has not finished, and return the results."""
    scale = SCALES[name]
    folder.mkdir(parents=True, exist_ok=True)
    runs = planned_runs(scale)
    checkpoints = train(labels, folder, runs)
    of_labels = {target: checkpoints[target] for target in TARGETS}
    data = open_training_data(open_store(str(labels / "store")).at(), SEARCHED)
    held_out, gains = agreement(data, of_labels), refocus_gains(data, of_labels)
    answer = loop(
        scale,
        labels,
        folder,
        [checkpoint for name, some in checkpoints.items() if name not in _OTHER_SCALE for checkpoint in some],
    )
    return {
        "scale": {"name": name, **asdict(scale)},
        "seeds": len(SEEDS),
        "utility_scale": data.utility_scale,
        **judged(held_out, gains, loop_losses(folder, runs)),
        "measured": count_labels(labels),
        "model": answer["model"],
        "gists": answer["gists"],
        "closed_loop": answer["closed_loop"],
        "machine": machine(),
    }


def options(description: str | None) -> argparse.Namespace:
    """Scale and folders, from the command line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=sorted(SCALES), default="small")
    parser.add_argument("--folder", type=Path, default=Path("runs/learned-price"))
    parser.add_argument("--labels", type=Path, default=Path("runs/absent"), help="folder of make absent")
    return parser.parse_args()


def main() -> None:
    arguments = options(__doc__)
    result = run(arguments.scale, arguments.labels, arguments.folder)
    write_results(RESULT, result)
    print(json.dumps({"differences": result["differences"], "decision": result["decision"]}, indent=1))


if __name__ == "__main__":
    main()
