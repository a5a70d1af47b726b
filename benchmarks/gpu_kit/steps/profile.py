"""Where the evaluator's time on the device goes: kernels by kind, parts of the network, and doing nothing."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.evaluator_cases import PROTECTED_TAIL, Case
from benchmarks.gpu_kit.context import StepContext
from benchmarks.gpu_kit.labelling import fast_labels
from benchmarks.gpu_kit.llama import make_bench, make_document
from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.collect.measuring.evaluator import Batching, measure_baseline, measure_edits
from mctrace.collect.planning.edits import action_edit

_KINDS = (
    ("attention", r"flash|fmha|attention"),
    ("matmul", r"gemm|nvjet|cutlass|xmma|wgmma|cublas|::mm|matmul|addmm|linear"),
    ("loss", r"softmax|nll|cross_entropy"),
    ("reduction (norms)", r"reduce|::mean|rsqrt"),
    ("copy", r"memcpy|memset|copy|::cat|catarray|index|gather|scatter"),
    ("elementwise", r"elementwise|::mul|::add|::silu|::neg|::lerp|::sigmoid|::pow|vectorized"),
)
"""kinds of kernels by what their names have in common, the first that fits"""


def run(context: StepContext) -> None:
    bench, case = make_bench(context), Case("level0", context.sizes.context, context.sizes.cursors[0])
    model, trajectory = bench.model, case.trajectory()
    document = make_document(context, model, case)
    legal = trajectory.legal_actions(PROTECTED_TAIL)
    middle = legal[len(legal) // 2 : len(legal) // 2 + (2 if context.toy else 24)]
    edits = [action_edit(trajectory, action) for action in middle]
    fast_labels(model, document, trajectory, middle[:2])
    baseline = measure_baseline(model, document, trajectory)
    batching = Batching(model.batch_tokens)
    measure_edits(model, document, trajectory, edits, baseline, batching)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if context.on_cuda else [])]
    with named_parts(model), profile(activities=activities) as found:
        measure_edits(model, document, trajectory, edits, baseline, batching)
        if context.on_cuda:
            torch.cuda.synchronize(context.device)
    events = kernels(found.events(), context.on_cuda)
    if not events:
        raise RuntimeError("the profiler saw no kernel: CUPTI does not work on this machine")
    context.say("kernels", num_edits=len(edits), **by_kind(events))
    context.say("parts", **parts(found.key_averages(), context.on_cuda))
    context.say("longest", kernels=longest(events))


@contextmanager
def named_parts(model: FrozenCausalLM) -> Iterator[None]:
    """Norms, attention blocks, feed-forward blocks and the head as ranges of the profile."""
    handles = []
    for name, module in model.network.named_modules():
        part = _part(name)
        if part is None:
            continue
        ranges: list[Any] = []

        def enter(*_: Any, part: str = part, ranges: list[Any] = ranges) -> None:
            ranges.append(record_function(f"kit: {part}"))
            ranges[-1].__enter__()

        def leave(*_: Any, ranges: list[Any] = ranges) -> None:
            ranges.pop().__exit__(None, None, None)

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _part(name: str) -> str | None:
    last = name.rpartition(".")[2]
    if last == "lm_head":
        return "head"
    if last.endswith("norm"):
        return "norms"
    return {"self_attn": "attention block", "mlp": "feed-forward block", "rotary_emb": "rotary"}.get(last)


def kernels(events: Sequence[Any], on_cuda: bool) -> list[tuple[str, float, float]]:
    """(name, start, end) in seconds of what ran on the device, by start."""
    kind = torch.autograd.DeviceType.CUDA if on_cuda else torch.autograd.DeviceType.CPU
    found = []
    for event in events:
        if event.device_type != kind or event.name.startswith("kit: "):
            continue
        start, end = event.time_range.start, event.time_range.end
        if not on_cuda:  # operators contain each other there
            end = start + event.self_cpu_time_total
        found.append((event.name, start / 1e6, end / 1e6))
    return sorted(found, key=lambda event: event[1])


def by_kind(events: Sequence[tuple[str, float, float]]) -> dict[str, Any]:
    """Seconds of each kind of kernel, and of no kernel at all between the first and the last."""
    total: dict[str, float] = defaultdict(float)
    busy, reached = 0.0, events[0][1]
    for name, start, end in events:
        total[kind_of(name)] += end - start
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    span = reached - events[0][1]
    return {
        "seconds": dict(total), "span": span, "idle": span - busy, "num_kernels": len(events),
        "share": {kind: value / span for kind, value in [*total.items(), ("idle", span - busy)]},
    }  # fmt: skip


def kind_of(name: str) -> str:
    """The first kind whose pattern a kernel's name has in it."""
    return next((kind for kind, pattern in _KINDS if re.search(pattern, name.lower())), "other")


def parts(averages: Sequence[Any], on_cuda: bool) -> dict[str, float]:
    """Seconds on the device inside each range of `named_parts`; ranges lie within each other."""
    return {
        event.key.removeprefix("kit: "): (event.device_time_total if on_cuda else event.cpu_time_total) / 1e6
        for event in averages
        if event.key.startswith("kit: ") and (not on_cuda or event.device_type == _cpu())
    }


def _cpu() -> Any:
    """Ranges appear once more on the device itself, without the gaps between their kernels."""
    return torch.autograd.DeviceType.CPU


def longest(events: Sequence[tuple[str, float, float]], count: int = 25) -> list[dict[str, Any]]:
    """The kernels that took most time together."""
    total: dict[str, list[float]] = defaultdict(list)
    for name, start, end in events:
        total[name].append(end - start)
    ordered = sorted(total.items(), key=lambda item: -sum(item[1]))
    return [
        {"name": name[:160], "kind": kind_of(name), "calls": len(times), "seconds": sum(times)}
        for name, times in ordered[:count]
    ]
