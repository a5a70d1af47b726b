"""LensNet's forward pass over a whole working context: as it is, as a CUDA graph, compiled, and both."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu_kit.context import StepContext
from benchmarks.gpu_kit.timing import seconds
from benchmarks.train_batches import Sizes, random_batch
from mctrace.train.networks.config import NetworkConfig
from mctrace.train.networks.registry import build_network
from mctrace.train.serving.torch_export import INPUTS, TensorLensNet

_PRECISIONS = ("bfloat16", "tf32", "float32")


def run(context: StepContext) -> None:
    """What needs no compiler first, for every width."""
    made = [_make(context, dim) for dim in context.sizes.lensnet_dims]
    references = {}
    for dim, network, inputs in made:
        for precision in _PRECISIONS:
            with _precision(context, precision):
                scores = network(*inputs)
                references[dim, precision] = scores
                _say(context, "eager", dim, precision, partial(network, *inputs), scores, references)
                if context.on_cuda:
                    replay, output = _graph(partial(network, *inputs))
                    replay()
                    _say(context, "graph", dim, precision, replay, output, references)
    for precision in _PRECISIONS[:1] if context.toy else _PRECISIONS:
        for dim, network, inputs in made:
            try:
                _compiled(context, dim, precision, network, inputs, references)
            except torch.AcceleratorError:
                raise  # nothing on this device works any more
            except Exception as error:  # a compiler that does not work here is a result, too
                why = f"{type(error).__name__}: {error}"[:500]
                context.say("forward", way="compiled", embedding_dim=dim, precision=precision, error=why)


def _make(context: StepContext, dim: int) -> tuple[int, nn.Module, tuple[Tensor, ...]]:
    batch = random_batch(Sizes(1, context.sizes.lensnet_entries, 512 if not context.toy else 32, dim))
    batch = batch.to(context.device)
    network = build_network(NetworkConfig(), dim).eval().requires_grad_(False)
    wrapped = TensorLensNet(network, batch.block_size, batch.max_level, signed=False)
    return dim, wrapped.to(context.device), tuple(getattr(batch, name) for name in INPUTS)


def _compiled(
    context: StepContext,
    dim: int,
    precision: str,
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    references: dict[tuple[int, str], Tensor],
) -> None:
    with _precision(context, precision):
        torch._dynamo.reset()
        # A rehearsal on a CPU traces; making C++ of it would take minutes.
        backend = "inductor" if context.on_cuda else "aot_eager"
        compiled = torch.compile(network, dynamic=False, backend=backend)
        work = partial(compiled, *inputs)
        compile_s = seconds(context.device, work, 1, warm_ups=0)
        _say(context, "compiled", dim, precision, work, work(), references, compile_seconds=compile_s)
        if context.on_cuda:
            replay, output = _graph(work)
            replay()
            _say(context, "compiled graph", dim, precision, replay, output, references)


def _say(
    context: StepContext,
    way: str,
    dim: int,
    precision: str,
    work: Callable[[], Any],
    scores: Tensor,
    references: dict[tuple[int, str], Tensor],
    **more: Any,
) -> None:
    """Seconds of one pass, and how far its scores are from the eager ones."""
    largest = (scores.float() - references[dim, precision].float()).abs().max()
    context.say(
        "forward", way=way, embedding_dim=dim, precision=precision, N=context.sizes.lensnet_entries,
        seconds=seconds(context.device, work, 5 * context.sizes.rounds),
        largest_difference=float(largest), score_std=float(scores.float().std()), **more,
    )  # fmt: skip


@contextmanager
def _precision(context: StepContext, name: str) -> Iterator[None]:
    """Inference in one of the three ways a GPU can compute it. Inside, weights are cast in every pass: a
    graph must not depend on casts that were kept from an earlier one."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    half = torch.autocast(
        context.device.type, torch.bfloat16, enabled=name == "bfloat16", cache_enabled=False
    )
    try:
        with torch.no_grad(), half:
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _graph(work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """`work` captured as a CUDA graph: what replays it, and the tensor that then holds its result."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = work()
    return graph.replay, output
