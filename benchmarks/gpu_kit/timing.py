"""Seconds of work on a device, by its own clock where it has one."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(device: torch.device, work: Callable[[], Any], rounds: int, warm_ups: int = 2) -> float:
    """Median over rounds, each waited for; launches that the device is still busy with do not count."""
    for _ in range(warm_ups):
        work()
    wait(device)
    found = []
    for _ in range(rounds):
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            end.synchronize()
            found.append(start.elapsed_time(end) / 1e3)
        else:
            started = time.perf_counter()
            work()
            found.append(time.perf_counter() - started)
    return statistics.median(found)


def wall_seconds(device: torch.device, work: Callable[[], Any]) -> tuple[float, Any]:
    """Of one call, by the clock on the wall, and what it gave."""
    wait(device)
    started = time.perf_counter()
    result = work()
    wait(device)
    return time.perf_counter() - started, result


def matmul_flops(
    device: torch.device, dtype: torch.dtype, rows: int, inner: int, columns: int, rounds: int
) -> float:
    """FLOP/s of a matrix product of random values; zeros would be faster than anything real."""
    left = torch.randn(rows, inner, device=device, dtype=dtype)
    right = torch.randn(inner, columns, device=device, dtype=dtype)
    return 2.0 * rows * inner * columns / seconds(device, lambda: left @ right, rounds, 3)


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int | None:
    """Most memory that tensors took since `reset_peak`; None where nobody counts."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
