"""Timings of LensNet that need no store: a forward pass, a training step by phase, the ranking term.

Medians over rounds; on one CPU thread (OMP_NUM_THREADS=1) in seconds of that thread.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.train_batches import Sizes, random_batch, ranked_actions
from mctrace.datasets.batches.padded_batch import NUM_TAIL_GISTS, Batch
from mctrace.train.networks.config import NetworkConfig, NetworkName
from mctrace.train.networks.lensnet import LensNet
from mctrace.train.networks.registry import build_network
from mctrace.train.objectives.config import ObjectiveConfig
from mctrace.train.objectives.counterfactual import counterfactual_loss
from mctrace.train.objectives.ranking import ranking_loss

MARGIN = 0.1
NUM_ENTRIES = 8192


@dataclass
class Clock:
    """Seconds spent in each named phase, a value per round; waits for the device at both ends.

    On one CPU thread they are seconds of that thread, which other processes on the machine do not stretch;
    `wall` asks for the clock on the wall, as everything else is measured.
    """

    device: torch.device
    wall: bool = False
    seconds: dict[str, list[float]] = field(default_factory=dict)

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        now = time.perf_counter if self.wall or not is_one_thread(self.device) else time.thread_time
        self._wait()
        started = now()
        yield
        self._wait()
        self.seconds.setdefault(name, []).append(now() - started)

    def medians(self) -> dict[str, float]:
        return {name: statistics.median(values) for name, values in self.seconds.items()}

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def is_one_thread(device: torch.device) -> bool:
    return device.type == "cpu" and torch.get_num_threads() == 1


def double_loop(scores_A: Tensor, targets_A: Tensor) -> Tensor:
    """Pairwise ranking term by a double loop, of one snapshot: docs/specification/losses.md#ranking."""
    n = targets_A.shape[0]
    pairs = []
    for i in range(n):
        for j in range(n):
            if targets_A[i] > targets_A[j] + MARGIN:
                pairs.append(functional.softplus(-(scores_A[i] - scores_A[j])))  # noqa: PERF401
    return torch.stack(pairs).mean() if pairs else torch.tensor(0.0)


def bench_ranking(
    device: torch.device, quick: bool, actions: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192)
) -> list[dict[str, Any]]:
    """Forward and backward of the ranking term by number of actions, one snapshot."""
    rows = []
    for num_actions in actions:
        scores, utilities, present = (part.to(device) for part in ranked_actions(1, num_actions))
        scores = scores.detach().requires_grad_()
        clock = Clock(device)

        def exact(
            scores: Tensor = scores, utilities: Tensor = utilities, present: Tensor = present
        ) -> Tensor:
            return ranking_loss(scores, utilities, present, MARGIN)

        def sampled(
            scores: Tensor = scores, utilities: Tensor = utilities, present: Tensor = present
        ) -> Tensor:
            return ranking_loss(scores, utilities, present, MARGIN, num_partners=64)

        for _ in range(3 if quick else 7):
            for name, loss in (("exact", exact), ("sampled", sampled)):
                with clock.timing(name):
                    loss().backward()  # type: ignore[no-untyped-call]
        row: dict[str, Any] = {"num_actions": num_actions, **clock.medians()}
        row["relative_difference_of_sampled"] = abs(sampled().item() / exact().item() - 1)
        if num_actions <= (256 if quick else 1024):
            with clock.timing("double_loop"):
                slow = double_loop(scores[0], utilities[0])
                slow.backward()  # type: ignore[no-untyped-call]
            row["double_loop"] = clock.medians()["double_loop"]
            row["speedup_over_double_loop"] = row["double_loop"] / row["exact"]
            row["difference_from_double_loop"] = abs(slow.item() - exact().item())
        row["peak_extra_bytes"] = _peak_extra_bytes(exact, device)
        rows.append(said(row))
    return rows


def _peak_extra_bytes(work: Callable[[], Tensor], device: torch.device) -> int:
    """Most memory that one forward and backward pass had allocated at once, beyond what was there."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work().backward()  # type: ignore[no-untyped-call]
        return int(torch.cuda.max_memory_allocated(device) - before)
    with torch.profiler.profile(profile_memory=True) as profile:
        work().backward()  # type: ignore[no-untyped-call]
    live, peak = 0, 0
    for event in profile.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


def bench_step(
    device: torch.device,
    name: NetworkName,
    embedding_dim: int,
    actions: tuple[int, ...],
    num_rounds: int,
    num_entries: int = NUM_ENTRIES,
) -> list[dict[str, Any]]:
    """Seconds of each phase of a step of one snapshot, by number of actions."""
    rows = []
    network = _network(name, embedding_dim, device).train()
    optimiser = torch.optim.AdamW(network.parameters())
    for num_actions in actions:
        batch = random_batch(Sizes(1, num_entries, num_actions, embedding_dim)).to(device)
        clock = Clock(device)
        for round_number in range(num_rounds + 1):
            if round_number == 1:
                clock.seconds.clear()
            _timed_step(clock, network, optimiser, batch)
        seconds = clock.medians()
        passes = seconds["forward"] + seconds["backward_network"]
        loss = seconds["loss"] + seconds["backward_loss"]
        rows.append(
            said(
                {
                    "network": name, "embedding_dim": embedding_dim, "num_actions": num_actions,
                    "seconds": seconds, "loss_share_of_step": loss / passes,
                }
            )
        )  # fmt: skip
    return rows


def _timed_step(clock: Clock, network: LensNet, optimiser: torch.optim.Optimizer, batch: Batch) -> None:
    """One step; the loss has its backward pass to the scores timed apart from the network's."""
    optimiser.zero_grad(set_to_none=True)
    with clock.timing("forward"):
        scores_BN = network(batch)
    leaf_BN = scores_BN.detach().requires_grad_()
    with clock.timing("loss"):
        loss = counterfactual_loss(leaf_BN, batch, ObjectiveConfig(rank_pairs="exact")).total
    with clock.timing("backward_loss"):
        loss.backward()  # type: ignore[no-untyped-call]
    with clock.timing("backward_network"):
        scores_BN.backward(leaf_BN.grad)
    with clock.timing("optimiser"):
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()


def bench_forward(
    device: torch.device, embedding_dim: int, bfloat16: bool, num_rounds: int
) -> dict[str, Any]:
    """A forward pass of the default network at NUM_ENTRIES entries against its floor in this very run."""
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    network = _network("dual_cross_attention", embedding_dim, device).eval()
    batch = random_batch(Sizes(1, NUM_ENTRIES, 512, embedding_dim)).to(device)
    clock = Clock(device)
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        with FlopCounterMode(display=False) as counter:
            network(batch)
        flops = counter.get_total_flops()
        num_bytes = _floor_bytes(network, batch)
        left, right, source = _rate_operands(embedding_dim, device, dtype)
        for _ in range(num_rounds):
            with clock.timing("forward"):
                network(batch)
            with clock.timing("multiply"):
                left @ right
            with clock.timing("copy"):
                source.clone()
    # The best rates, not the median: a floor is what the machine can do.
    flop_rate = 2 * left.shape[0] * left.shape[1] * right.shape[1] / min(clock.seconds["multiply"])
    byte_rate = 2 * source.numel() * source.element_size() / min(clock.seconds["copy"])
    floor = max(flops / flop_rate, num_bytes / byte_rate)
    forward = clock.medians()["forward"]
    return said(
        {
            "embedding_dim": embedding_dim, "dtype": str(dtype).removeprefix("torch."),
            "num_tail_gists": NUM_TAIL_GISTS, "forward_s": forward, "flops": flops, "bytes": num_bytes,
            "tflops": flop_rate / 1e12, "gb_per_s": byte_rate / 1e9,
            "flop_floor_s": flops / flop_rate, "byte_floor_s": num_bytes / byte_rate,
            "forward_over_floor": forward / floor,
        }
    )  # fmt: skip


def _floor_bytes(network: LensNet, batch: Batch) -> int:
    """What no implementation can do without moving: inputs and weights read once, scores written once."""
    inputs = (batch.context_embeddings, batch.tail_gists, batch.levels, batch.span_width)
    inputs = (*inputs, batch.distance_to_cursor, batch.entry_mask)
    read = sum(t.numel() * t.element_size() for t in (*inputs, *network.parameters()))
    return read + 4 * batch.levels.numel()


def _rate_operands(
    embedding_dim: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """The network's own largest product, and more memory than any cache holds."""
    width = NetworkConfig().d_lens
    left = torch.randn(NUM_ENTRIES, max(embedding_dim, width), device=device, dtype=dtype)
    right = torch.randn(left.shape[1], 2 * width, device=device, dtype=dtype)
    return left, right, torch.randn(64 * 2**20, device=device)


def _network(name: NetworkName, embedding_dim: int, device: torch.device) -> LensNet:
    return build_network(NetworkConfig(name=name), embedding_dim).to(device)


def said(row: dict[str, Any]) -> dict[str, Any]:
    """The row itself, printed so that a long run shows where it is."""
    print(json.dumps(row), flush=True)
    return row
