"""`make bench-train`: where the time of a training step goes, and against what.

1. The ranking term against the specification's own double loop, and alone to 8,192 actions, with peak memory.
2. A step's read, forward, loss, backward and optimiser at 8,192 entries, by number of actions.
3. A forward pass at 8,192 entries against the time its FLOPs and bytes take at the best matrix-multiply and
   copy rates found in the same run.
4. Scoring a context of 8,192 entries without a price head, and with one by either price, alternately.
5. The reader against the trainer, and samples per second end to end, from a store on disk.

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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.train_cases import write_store
from benchmarks.train_price import bench_price
from benchmarks.train_timings import (
    Clock,
    bench_forward,
    bench_ranking,
    bench_step,
    said,
)
from mctrace.datasets.batches.label_reader import open_training_data
from mctrace.train.config import OptimiserConfig, TrainConfig
from mctrace.train.data_parallel import ProcessGroup
from mctrace.train.device import resolve_device
from mctrace.train.loop.data_loader import TrainingSource, prefetch
from mctrace.train.loop.lensnet_training import LensNetTraining
from mctrace.train.networks.config import NetworkConfig
from mctrace.train.networks.registry import build_network
from mctrace.train.objectives.lensnet_gradients import Examples

RESULTS = Path(__file__).parent / "results"


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
    return said(
        {
            "mean_entries": entries, "reader_samples_per_s": rate["read"],
            "trainer_samples_per_s": rate["train"], "end_to_end_samples_per_s": rate["both"],
            "reader_over_trainer": rate["read"] / rate["train"],
        }
    )  # fmt: skip


def _fit(training: LensNetTraining, batches: Iterator[list[Examples]]) -> None:
    training.run(batches, evaluate=lambda _: {"loss": 0.0}, save=lambda *_: None)


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
    price = bench_price(device, 576, 3 * rounds)
    reading = bench_reading(device, quick)
    seconds = time.perf_counter() - started
    return {**summary(ranking, steps, forward, price, reading, device), "seconds": seconds, "quick": quick}


def summary(
    ranking: list[dict[str, Any]],
    steps: list[dict[str, Any]],
    forward: list[dict[str, Any]],
    price: dict[str, Any],
    reading: dict[str, Any],
    device: torch.device,
) -> dict[str, Any]:
    """All rows, and what is asked of them."""
    return {
        "ranking": ranking, "steps": steps, "forward": forward, "price": price,
        "reading": reading,
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
        "price_head_over_none": {
            name: price[f"{name}_over_without_head"] for name in ("searched", "learned")
        },
        "reader_over_trainer": reading["reader_over_trainer"],
        "peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "machine": _machine(device),
    }  # fmt: skip


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
