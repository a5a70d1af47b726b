"""A LensNet training step by phase, a whole one as the trainer takes it and compiled, the loss by actions."""

import warnings
from collections.abc import Callable

import torch

from benchmarks.gpu_kit.context import StepContext
from benchmarks.gpu_kit.timing import peak_bytes, reset_peak, seconds
from benchmarks.train_batches import Sizes, random_batch
from benchmarks.train_timings import bench_ranking, bench_step
from mctrace.train.networks.compiled import compiled_network
from mctrace.train.networks.config import NetworkConfig
from mctrace.train.networks.registry import build_network
from mctrace.train.objectives.config import ObjectiveConfig
from mctrace.train.objectives.lensnet_gradients import Examples, LensNetGradients


def run(context: StepContext) -> None:
    sizes, device = context.sizes, context.device
    for dim in sizes.lensnet_dims[:2]:
        rows = bench_step(
            device, "dual_cross_attention", dim, sizes.loss_actions, 3 if context.toy else 7,
            sizes.lensnet_entries,
        )  # fmt: skip
        for row in rows:
            context.say("phases", N=sizes.lensnet_entries, **row)
    for row in bench_ranking(device, quick=True, actions=sizes.loss_actions):
        context.say("ranking", **row)
    for num_rows in sizes.step_rows:
        _whole_step(context, num_rows)
    try:
        _whole_step(context, num_rows, compiled=True)
    except torch.AcceleratorError:
        raise  # nothing on this device works any more
    except Exception as error:  # a compiler that does not work here is a result, too
        context.say("step", way="compiled", rows=num_rows, error=f"{type(error).__name__}: {error}"[:500])


def _whole_step(context: StepContext, num_rows: int, *, compiled: bool = False) -> None:
    """As the trainer runs it, in bfloat16; how often it waits for the device tells what could overlap."""
    dim, device = context.sizes.lensnet_dims[0], context.device
    network = build_network(NetworkConfig(), dim).to(device).train()
    # A rehearsal on a CPU traces; making C++ of it would take minutes.
    backend = "inductor" if context.on_cuda else "aot_eager"
    forward = compiled_network(network, backend) if compiled else None
    step = LensNetGradients(network, ObjectiveConfig(), bfloat16=True, compiled=forward)
    num_actions = context.sizes.loss_actions[0]
    batch = random_batch(Sizes(num_rows, context.sizes.lensnet_entries, num_actions, dim)).to(device)
    optimiser = torch.optim.AdamW(network.parameters())

    def work() -> None:
        optimiser.zero_grad(set_to_none=True)
        step([Examples(batch)])
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()

    reset_peak(device)
    took = seconds(device, work, 2 if context.toy else 10)
    context.say(
        "step", way="compiled" if compiled else "eager", embedding_dim=dim, rows=num_rows,
        num_actions=num_actions, seconds=took, samples_per_s=num_rows / took,
        peak_bytes=peak_bytes(device), waits=_waits(context, work),
    )  # fmt: skip


def _waits(context: StepContext, work: Callable[[], None]) -> int | None:
    """How often one call of `work` waits for the device; None where there is nothing to wait for."""
    if not context.on_cuda:
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)
