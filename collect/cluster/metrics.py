"""Prometheus metrics of a run, through Ray's own exporter on every node (`ray.util.metrics`).

Nothing is recorded before `export` is called, which only processes of a Ray cluster do; so code that observes
needs no Ray.
"""

from collections.abc import Mapping
from typing import Any, Literal

_SECONDS = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)

METRICS: Mapping[str, tuple[Literal["counter", "gauge", "histogram"], str]] = {
    "items_done": ("counter", "items measured"),
    "items_quarantined": ("counter", "items given up"),
    "items_tried_again": ("counter", "items that failed or lost their actor and were given out again"),
    "effects": ("counter", "effects measured"),
    "tokens_run": ("counter", "entries that went through the base model's layers"),
    "item_seconds": ("histogram", "seconds that an item took its worker"),
    "model_flops_per_second": ("gauge", "floating-point operations of the last item by its seconds"),
    "mfu": ("gauge", "model_flops_per_second as a share of the device's peak, where that is known"),
    "gpu_memory_bytes": ("gauge", "memory that torch holds on the worker's GPUs"),
    "actors_ready": ("gauge", "actors that can be given work"),
    "actors_wanted": ("gauge", "actors asked for, those that wait for room included"),
    "items_in_flight": ("gauge", "items given out and not yet back"),
    "commit_seconds": ("histogram", "seconds that a commit to the store took"),
}
"""kind and meaning by name; Prometheus shows each as ray_mctrace_NAME (counters with _total)"""

_PEAKS = {
    "B200": 2.25e15, "GB200": 2.25e15, "H200": 9.89e14, "H100": 9.89e14, "GH200": 9.89e14, "A100": 3.12e14,
    "L40S": 3.62e14, "L4": 1.21e14, "A10": 1.25e14, "V100": 1.25e14, "T4": 6.5e13,
}  # fmt: skip
"""dense operations a second in half precision, from the makers' data sheets"""

_exported: dict[str, Any] = {}


def export(run_id: str, host: str) -> None:
    """Record what this process observes from now on."""
    from ray.util.metrics import Counter, Gauge, Histogram

    for name, (kind, meaning) in METRICS.items():
        full, tags = f"mctrace_{name}", ("run_id", "host")
        if kind == "histogram":
            metric = Histogram(full, meaning, boundaries=list(_SECONDS), tag_keys=tags)
        else:
            metric = (Counter if kind == "counter" else Gauge)(full, meaning, tag_keys=tags)
        metric.set_default_tags({"run_id": run_id, "host": host})
        _exported[name] = metric


def stop() -> None:
    """Record nothing any more."""
    _exported.clear()


def observe(name: str, value: float = 1.0) -> None:
    """Add to a counter, set a gauge, or put a value into a histogram."""
    kind, _ = METRICS[name]
    if (metric := _exported.get(name)) is None or (kind == "counter" and value <= 0):
        return
    if kind == "counter":
        metric.inc(value)
    elif kind == "gauge":
        metric.set(value)
    else:
        metric.observe(value)


def peak_flops(device_name: str) -> float | None:
    """Peak of a device in half precision by its maker's name for it; None for one that is not known."""
    found = [name for name in _PEAKS if name in device_name.replace("-", " ").split()]
    return _PEAKS[found[0]] if found else None
