"""Methods that give the same labels, each as somebody would run it, and their stopwatch."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from benchmarks.evaluator_cases import HORIZON, PROTECTED_TAIL, TREE
from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.base_model.document_tree import DocumentTree
from mctrace.base_model.flop_counts import Work
from mctrace.collect.measuring.evaluator import Batching, measure_baseline, measure_edits
from mctrace.collect.measuring.naive_evaluator import naive_nll
from mctrace.collect.planning.edits import Edit, action_edit
from mctrace.collect.planning.forward_passes import baseline_pass, plan_passes
from mctrace.context.actions import Action, apply_action
from mctrace.context.lod_map import LODMap
from mctrace.context.trajectory import Trajectory
from mctrace.context.working_context import gather_embeddings


@dataclass
class Bench:
    """The model under test, its device's best matrix-multiply rate so far, and a stopwatch for both."""

    model: FrozenCausalLM
    gemm_flops: float = 0.0
    shapes: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        layers = [m for m in self.model.network.base_model.modules() if isinstance(m, torch.nn.Linear)]
        self.shapes = sorted({tuple(m.weight.shape) for m in layers})  # type: ignore[misc]

    def seconds(self, work: Callable[[], Any]) -> tuple[float, Any]:
        """Wall time of `work` and its result, after the GPU is done."""
        self._wait()
        started = time.perf_counter()
        result = work()
        self._wait()
        return time.perf_counter() - started, result

    @torch.inference_mode()
    def try_gemm(self, num_rows: int = 2048) -> None:
        """Measure a batch of entries times each of the model's weight shapes, and keep the best rate."""
        network = self.model.network
        for out_dim, in_dim in self.shapes:
            entries = torch.randn(num_rows, in_dim, dtype=network.dtype, device=network.device)
            weight = torch.randn(out_dim, in_dim, dtype=network.dtype, device=network.device)
            times = [self.seconds(partial(torch.mm, entries, weight.T))[0] for _ in range(5)]
            self.gemm_flops = max(self.gemm_flops, 2.0 * num_rows * in_dim * out_dim / min(times))

    def _wait(self) -> None:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)


def naive_label(bench: Bench, document: DocumentTree, snapshot: LODMap, action: Action) -> Tensor:
    """Two passes over everything: one label and its baseline."""
    after_H = naive_nll(bench.model, document, apply_action(snapshot, action), HORIZON)
    return after_H - naive_nll(bench.model, document, snapshot, HORIZON)


def exact_labels(
    bench: Bench, document: DocumentTree, trajectory: Trajectory, actions: Sequence[Action]
) -> Sequence[Tensor]:
    edits = [action_edit(trajectory, action) for action in actions]
    baseline = measure_baseline(bench.model, document, trajectory)
    batching = Batching(bench.model.batch_tokens)
    return measure_edits(bench.model, document, trajectory, edits, baseline, batching).deltas


@torch.inference_mode()
def prefix_losses(
    bench: Bench, document: DocumentTree, trajectory: Trajectory, actions: Sequence[Action]
) -> None:
    """The method written with transformers alone: one cache per snapshot, cropped at each edit.

    Edits come last to first, so that each finds its prefix in the cache and nothing is copied.
    """
    network, cache = bench.model.network, DynamicCache(config=bench.model.network.config)
    _transformers_nll(network, document, trajectory, 0, trajectory.context, cache)
    for action in sorted(actions, key=lambda action: TREE.span(action.node)[0], reverse=True):
        edited = apply_action(trajectory.context, action)
        crop = edited.entries.index_of_token(TREE.span(action.node)[0])
        cache.crop(crop - cache.get_seq_length())
        _transformers_nll(network, document, trajectory, crop, edited, cache)


def _transformers_nll(
    network: Any,
    document: DocumentTree,
    trajectory: Trajectory,
    crop: int,
    lod_map: LODMap,
    cache: DynamicCache,
) -> Tensor:
    entries = lod_map.entries.sliced(slice(crop, len(lod_map.entries) - 1))
    embeddings_ND = gather_embeddings(entries, document.embeddings)
    logits: Tensor = network(
        inputs_embeds=embeddings_ND[None],
        position_ids=torch.from_numpy(entries.position_N(lod_map.start))[None].to(network.device),
        attention_mask=torch.ones(1, crop + len(entries), dtype=torch.long, device=network.device),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=HORIZON,
    ).logits[0]
    targets_H = document.tokens_T[trajectory.first_cursor : trajectory.end].to(logits.device)
    return torch.nn.functional.cross_entropy(logits.float(), targets_H, reduction="none")


def snapshots_of(trajectory: Trajectory) -> list[tuple[Trajectory, list[Action]]]:
    """Every cursor as a trajectory of its own, with its legal actions."""
    heads = [trajectory.head.extended(cursor) for cursor in trajectory.cursors]
    snapshots = [Trajectory(head, (head.cursor,), trajectory.horizon) for head in heads]
    return [(snapshot, snapshot.legal_actions(PROTECTED_TAIL)) for snapshot in snapshots]


def work_of(bench: Bench, trajectory: Trajectory, actions: Sequence[Action]) -> Work:
    edits: list[Edit] = [action_edit(trajectory, action) for action in actions]
    passes = plan_passes(trajectory, edits, None, bench.model.batch_tokens)
    return sum((p.work for p in passes), start=baseline_pass(trajectory).work)


def flops_of(bench: Bench, trajectory: Trajectory, actions: Sequence[Action]) -> float:
    return bench.model.size.flops(work_of(bench, trajectory, actions))
