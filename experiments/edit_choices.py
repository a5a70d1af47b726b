"""Edits chosen by exact labels: literal against priced targets, joint against single effects.

Two comparisons on held-out documents that need labels but no network:

- Half of a context's blocks have to collapse. A perfect learner of `literal` collapses the costliest half,
  one of `value` or `priced` the cheapest. Both choose by labels of one horizon and are judged on it and on
  the next one, which they have not seen, beside the oldest half and a random half.
- Labels are measured one edit at a time, the allocator makes several at once. How far is the effect of a swap
  (an expand and a collapse together) from the sum of its two effects, and how much does the greedy oracle
  lose by trusting the sum?
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np

from experiments.result_files import interval
from mctrace.analysis.closed_loop.context_reader import ContextReader
from mctrace.analysis.closed_loop.documents import Loop
from mctrace.analysis.closed_loop.oracles import Hindsight
from mctrace.analysis.closed_loop.policies import Observation
from mctrace.base_model.document_tree import DocumentTree
from mctrace.base_model.protocol import EvaluatedModel
from mctrace.cli.configuration import PipelineConfig
from mctrace.collect.measuring.evaluator import Batching, measure_baseline, measure_edits
from mctrace.collect.planning.edits import action_edit, joint_edit
from mctrace.collect.planning.map_policies import recency_map_within
from mctrace.context.actions import Action
from mctrace.context.allocator import NOTHING_RECENT
from mctrace.context.lod_map import LODMap
from mctrace.context.trajectory import Trajectory
from mctrace.context.tree import TreeShape
from mctrace.seeding import generator_for
from mctrace.train.evaluation.statistics import bootstrap_interval

CONTEXT_TOKENS = 512
HORIZON = 64
"""tokens whose loss the labels measure; as many after them are held out"""
NUM_BEST = 3
"""expands and collapses whose swaps are all measured"""


def half_collapsed(
    model: EvaluatedModel,
    document_id: str,
    document: DocumentTree,
    config: PipelineConfig,
    batching: Batching,
) -> Mapping[str, Mapping[str, float]]:
    """Choice -> cost of collapsing that half, nats per token: on the labels' horizon and on the next."""
    tree, tail = config.tree, config.collect.protected_tail
    cursor = (len(document.tokens_T) - 2 * HORIZON) // tree.block_size * tree.block_size
    head = LODMap.of_tokens(tree, cursor - CONTEXT_TOKENS, cursor)
    trajectory = Trajectory(head, (cursor,), 2 * HORIZON)
    baseline = measure_baseline(model, document, trajectory)
    collapses = trajectory.legal_actions(tail)
    edits = [action_edit(trajectory, action) for action in collapses]
    singles = measure_edits(model, document, trajectory, edits, baseline, batching).deltas
    costs = np.array([float(delta_H[:HORIZON].mean()) for delta_H in singles])
    num_half = len(collapses) // 2
    generator = generator_for("half", document_id)
    halves = {
        "literal: the costliest half": np.argsort(-costs, kind="stable")[:num_half],
        "value and priced: the cheapest half": np.argsort(costs, kind="stable")[:num_half],
        "the oldest half": np.arange(num_half),
        "a random half": generator.permutation(len(collapses))[:num_half],
    }
    joint = [joint_edit(trajectory, [collapses[i] for i in sorted(half)]) for half in halves.values()]
    deltas = measure_edits(model, document, trajectory, joint, baseline, batching).deltas
    return {
        name: {
            "chosen_on": float(delta_H[:HORIZON].mean()),
            "next": float(delta_H[HORIZON:].mean()),
        }
        for name, delta_H in zip(halves, deltas, strict=True)
    }


def swaps(
    model: EvaluatedModel,
    document_id: str,
    document: DocumentTree,
    loop: Loop,
    config: PipelineConfig,
    batching: Batching,
) -> Sequence[Mapping[str, float]]:
    """The best swaps by single effects in a recency context: gain together, and the sum of both alone.

    In nats per token over the next K tokens, best sum first.
    """
    tree, tail = config.tree, config.collect.protected_tail
    budget = config.closed_loop.w_max - tree.block_size
    lod_map = recency_map_within(tree, loop.start, loop.first_cursor, budget, tail)
    reader = ContextReader(model, document)
    view = Observation(document_id, document, reader, lod_map, budget, tail, NOTHING_RECENT, batching, 0)
    values = Hindsight(config.closed_loop.max_candidates).values_of_detail(view, view.candidates())
    expands = _best(values, "expand", 1)
    collapses = _best(values, "collapse", -1)
    pairs = [(e, c) for e, c in product(expands, collapses) if _apart(tree, e, c)]
    trajectory = Trajectory(lod_map, (lod_map.cursor,), tree.block_size)
    baseline = reader.read(lod_map, tree.block_size)
    edits = [joint_edit(trajectory, pair) for pair in pairs]
    deltas = measure_edits(model, document, trajectory, edits, baseline, batching).deltas
    found = [
        {"together": -float(delta_H.mean()), "sum": values[expand] - values[collapse]}
        for (expand, collapse), delta_H in zip(pairs, deltas, strict=True)
    ]
    return sorted(found, key=lambda swap: -swap["sum"])


def _best(values: Mapping[Action, float], kind: str, sign: int) -> list[Action]:
    actions = [action for action in values if action.kind == kind]
    return sorted(actions, key=lambda action: -sign * values[action])[:NUM_BEST]


def _apart(tree: TreeShape, one: Action, other: Action) -> bool:
    first, end = tree.span(one.node)
    other_first, other_end = tree.span(other.node)
    return end <= other_first or other_end <= first


def summarise_halves(
    by_document: Mapping[str, Mapping[str, Mapping[str, float]]], seed: int
) -> dict[str, dict[str, Any]]:
    """Choice -> horizon -> [mean, low, high] over documents."""
    table: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for document, choices in by_document.items():
        for choice, costs in choices.items():
            for horizon, cost in costs.items():
                table[choice][horizon][document] = cost
    return {
        choice: {horizon: _interval(costs, seed) for horizon, costs in found.items()}
        for choice, found in table.items()
    }


def summarise_swaps(by_document: Mapping[str, Sequence[Mapping[str, float]]], seed: int) -> dict[str, Any]:
    """Additivity gap over all swaps, and per document what trusting sums costs the greedy oracle."""
    found = {document: swaps for document, swaps in by_document.items() if swaps}
    together = np.array([swap["together"] for swaps in found.values() for swap in swaps])
    sums = np.array([swap["sum"] for swaps in found.values() for swap in swaps])
    greedy = {document: swaps[0]["together"] for document, swaps in found.items()}
    best = {document: max(swap["together"] for swap in swaps) for document, swaps in found.items()}
    lost = {document: best[document] - greedy[document] for document in found}
    return {
        "num_swaps": len(sums),
        "mean_sum": float(sums.mean()),
        "mean_together": float(together.mean()),
        "mean_absolute_gap": float(np.abs(together - sums).mean()),
        "correlation": float(np.corrcoef(together, sums)[0, 1]),
        "greedy_by_sums": _interval(greedy, seed),
        "best_together": _interval(best, seed),
        "lost_by_greed": _interval(lost, seed),
    }


def _interval(by_document: Mapping[str, float], seed: int) -> list[float] | None:
    return interval(asdict(bootstrap_interval(by_document, seed)))
