"""`make bench-train`: where the time of a training step goes, and against what.

1. The ranking term against the specification's own double loop, and alone to 8,192 actions, with peak memory.
2. A step's read, forward, loss, backward and optimiser at 8,192 entries, by number of actions.
3. A forward pass at 8,192 entries against the time its FLOPs and bytes take at the best matrix-multiply and
   copy rates found in the same run.
4. The reader against the trainer, and samples per second end to end, from a store on disk.

Medians over rounds; on one CPU thread (OMP_NUM_THREADS=1) in seconds of that thread. The last line printed is
one JSON object, which is also written to benchmarks/results/.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.train_cases import Sizes, random_batch, ranked_actions, write_store
from mctrace.datasets.batches.batch import NUM_TAIL_GISTS, Batch
from mctrace.datasets.batches.labels import open_training_data
from mctrace.train.config import OptimiserConfig, TrainConfig
from mctrace.train.data_parallel import ProcessGroup
from mctrace.train.device import resolve_device
from mctrace.train.loop.data_loader import TrainingSource, prefetch
from mctrace.train.loop.lensnet_training import LensNetTraining
from mctrace.train.networks.config import NetworkConfig, NetworkName
from mctrace.train.networks.lensnet import LensNet
from mctrace.train.networks.registry import build_network
from mctrace.train.objectives.config import ObjectiveConfig
from mctrace.train.objectives.counterfactual import counterfactual_loss
from mctrace.train.objectives.lensnet_gradients import Examples
from mctrace.train.objectives.ranking import ranking_loss

RESULTS = Path(__file__).parent / "results"
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
        now = time.perf_counter if self.wall or not _is_one_thread(self.device) else time.thread_time
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


def _is_one_thread(device: torch.device) -> bool:
    return device.type == "cpu" and torch.get_num_threads() == 1


def double_loop(scores_A: Tensor, targets_A: Tensor) -> Tensor:
    """docs/specification/losses.md#ranking pair by pair, of one snapshot."""
    n = targets_A.shape[0]
    pairs = []
    for i in range(n):
        for j in range(n):
            if targets_A[i] > targets_A[j] + MARGIN:
                pairs.append(functional.softplus(-(scores_A[i] - scores_A[j])))  # noqa: PERF401
    return torch.stack(pairs).mean() if pairs else torch.tensor(0.0)


def bench_ranking(device: torch.device, quick: bool) -> list[dict[str, Any]]:
    """Forward and backward of the ranking term by number of actions, one snapshot."""
    rows = []
    for num_actions in (256, 512, 1024, 2048, 4096, 8192):
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
        rows.append(_said(row))
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
    device: torch.device, name: NetworkName, embedding_dim: int, actions: tuple[int, ...], num_rounds: int
) -> list[dict[str, Any]]:
    """Seconds of each phase of a step of one snapshot at NUM_ENTRIES entries, by number of actions."""
    rows = []
    network = _network(name, embedding_dim, device).train()
    optimiser = torch.optim.AdamW(network.parameters())
    for num_actions in actions:
        batch = random_batch(Sizes(1, NUM_ENTRIES, num_actions, embedding_dim)).to(device)
        clock = Clock(device)
        for round_number in range(num_rounds + 1):
            if round_number == 1:
                clock.seconds.clear()
            _timed_step(clock, network, optimiser, batch)
        seconds = clock.medians()
        passes = seconds["forward"] + seconds["backward_network"]
        loss = seconds["loss"] + seconds["backward_loss"]
        rows.append(
            _said(
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
    return _said(
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


def bench_reading(device: torch.device, quick: bool) -> dict[str, Any]:
    """Samples per second of the reader alone, of the trainer alone, and of both together, from disk."""
    network = NetworkConfig(d_lens=64, num_heads=4) if quick else NetworkConfig()
    config = TrainConfig(
        network=network, batch_size=4, device=device.type,
        optimiser=OptimiserConfig(warmup_steps=1, total_steps=4),
        eval_interval=1000, save_interval=1000, log_interval=1000,
    )  # fmt: skip
    num_steps, size = config.optimiser.total_steps, config.batch_size
    with tempfile.TemporaryDirectory() as folder:
        store = write_store(
            Path(folder) / "store", num_documents=10, num_tokens=16_384, head_entries=2048 if quick else 4096,
            num_cursors=8, embedding_dim=576,
        )  # fmt: skip
        source = TrainingSource(open_training_data(store.at()), None)
        reading = source.steps(config, ProcessGroup())
        first = next(reading)
        clock = Clock(device)
        with clock.timing("read"):
            batches = [next(reading) for _ in range(num_steps)]
        training = LensNetTraining.of(build_network(config.network, 576), config)
        training.step(first)
        with clock.timing("train"):
            _fit(training, iter(batches))
        training = LensNetTraining.of(build_network(config.network, 576), config)
        clock.wall = True  # two threads at work
        with clock.timing("both"), prefetch(source.steps(config, ProcessGroup())) as ahead:
            _fit(training, ahead)
    rate = {name: num_steps * size / seconds for name, seconds in clock.medians().items()}
    entries = statistics.fmean(
        float(part.labels.entry_mask.sum(1).float().mean()) for (part,) in batches if part.labels
    )
    return _said(
        {
            "mean_entries": entries, "reader_samples_per_s": rate["read"],
            "trainer_samples_per_s": rate["train"], "end_to_end_samples_per_s": rate["both"],
            "reader_over_trainer": rate["read"] / rate["train"],
        }
    )  # fmt: skip


def _fit(training: LensNetTraining, batches: Iterator[list[Examples]]) -> None:
    training.run(batches, evaluate=lambda _: {"loss": 0.0}, save=lambda *_: None)


def _network(name: NetworkName, embedding_dim: int, device: torch.device) -> LensNet:
    return build_network(NetworkConfig(name=name), embedding_dim).to(device)


def run(device_name: Any, quick: bool) -> dict[str, Any]:
    """Everything; progress is printed as it comes."""
    device, started = resolve_device(device_name), time.perf_counter()
    rounds = 3 if quick else 5
    ranking = bench_ranking(device, quick)
    actions = (512, 2048) if quick else (128, 512, 2048, 8192)
    dims = (576,) if quick else (576, 2048)
    steps = bench_step(device, "dual_cross_attention", 576, actions, rounds)
    if not quick:
        steps += bench_step(device, "dual_cross_attention", 2048, (512,), rounds)
    forward = [bench_forward(device, dim, False, rounds) for dim in dims]
    if device.type == "cuda":
        forward += [bench_forward(device, dim, True, 10 * rounds) for dim in dims]
    reading = bench_reading(device, quick)
    seconds = time.perf_counter() - started
    return {**summary(ranking, steps, forward, reading, device), "seconds": seconds, "quick": quick}


def summary(
    ranking: list[dict[str, Any]],
    steps: list[dict[str, Any]],
    forward: list[dict[str, Any]],
    reading: dict[str, Any],
    device: torch.device,
) -> dict[str, Any]:
    """All rows, and what is asked of them."""
    return {
        "ranking": ranking, "steps": steps, "forward": forward, "reading": reading,
        "loss_share_of_step": {
            str(row["num_actions"]): row["loss_share_of_step"] for row in steps if row["embedding_dim"] == 576
        },
        "speedup_over_double_loop": {
            str(row["num_actions"]): row["speedup_over_double_loop"]
            for row in ranking
            if "speedup_over_double_loop" in row
        },
        "forward_over_floor": {
            f"{row['embedding_dim']} {row['dtype']}": row["forward_over_floor"] for row in forward
        },
        "reader_over_trainer": reading["reader_over_trainer"],
        "peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "machine": _machine(device),
    }  # fmt: skip


def _said(row: dict[str, Any]) -> dict[str, Any]:
    """The row itself, printed so that a long run shows where it is."""
    print(json.dumps(row), flush=True)
    return row


def _machine(device: torch.device) -> dict[str, Any]:
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
        name = next(
            (x.partition(":")[2].strip() for x in lines if x.startswith("model name")), platform.processor()
        )
    return {
        "device": name, "threads": torch.get_num_threads(), "torch": torch.__version__,
        "load_average": os.getloadavg()[0],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a minute on two cores; kept only with --out")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--out", type=Path, default=None, help="JSON file [benchmarks/results/train-*.json]")
    arguments = parser.parse_args()
    result = run(arguments.device, arguments.quick)
    if arguments.out or not arguments.quick:
        out = arguments.out or RESULTS / f"train-{resolve_device(arguments.device).type}.json"
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
