"""Attention with its log-sum-exp on the evaluator's shapes: public functions against private operators.

A row's own entries attend to each other causally, all rows together to the shared prefix, the query heads of
a key-value head as one long list. What is right is said by plain matrix products in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention

from benchmarks.gpu_kit.context import StepContext
from benchmarks.gpu_kit.timing import seconds
from mctrace.base_model.attention_kernels import (
    Kernel,
    efficient_cuda,
    flash_cpu,
    flash_cuda,
    matmul_attention,
    varlen_cuda,
)

_SCALE = 0.125


@dataclass(frozen=True)
class Shape:
    """B rows, h heads, k key-value heads, L queries, n keys, e head width."""

    name: str
    B: int
    h: int
    k: int
    L: int
    n: int
    causal: bool
    e: int = 64

    @property
    def flops(self) -> float:
        pairs = self.L * (self.L + 1) / 2 if self.causal else self.L * self.n
        return 4.0 * self.B * self.h * pairs * self.e

    def inputs(self, device: torch.device, dtype: torch.dtype, heads: int) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator(device).manual_seed(0)
        lengths = ((self.h, self.L), (heads, self.n), (heads, self.n))
        query, key, value = (
            torch.randn(self.B, number, length, self.e, device=device, dtype=dtype, generator=generator)
            for number, length in lengths
        )
        return query, key, value


def cudnn_cuda(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """The private operator of cuDNN's attention, half precision only."""
    out, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
        query, key, value, None, True, 0.0, causal, False, scale=scale
    )
    return out, lse.reshape(query.shape[:3])


class Flex:
    """torch's public flex attention; compiled where it is fast, for one shape at a time."""

    __name__ = "flex"

    def __init__(self, compiled: bool) -> None:
        self.run: Callable[..., Any] = (
            torch.compile(flex_attention, dynamic=False) if compiled else flex_attention
        )

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        mask = _causal_mask(query.shape[2], str(query.device)) if causal else None
        out, more = self.run(
            query, key, value, block_mask=mask, scale=scale, return_aux=AuxRequest(lse=True),
            enable_gqa=query.shape[1] != key.shape[1],
        )  # fmt: skip
        return out, more.lse


_masks: dict[tuple[int, str], Any] = {}


def _causal_mask(length: int, device: str) -> Any:
    """Made once a length: a mask is no part of what is measured."""
    if (length, device) not in _masks:
        _masks[length, device] = create_block_mask(
            lambda b, h, query, key: query >= key, None, None, length, length, device=device
        )
    return _masks[length, device]


def run(context: StepContext) -> None:
    """Right and fast, the private ones first; flex last, since its compiler takes its time."""
    private: dict[torch.dtype, list[Kernel]] = {
        torch.bfloat16: [flash_cuda, cudnn_cuda, varlen_cuda, matmul_attention],
        torch.float32: [efficient_cuda, matmul_attention],
    }
    if not context.on_cuda:
        private = {dtype: [flash_cpu, matmul_attention] for dtype in private}
    flex = Flex(compiled=context.on_cuda)
    for kernels in (private, {dtype: [flex] for dtype in private}):
        for dtype, some in kernels.items():
            for kernel in some:
                _measure(context, kernel, dtype)
    if context.on_cuda:
        for shape in _shapes(context):
            _try(context, _time, flash_cuda, shape, torch.bfloat16, shape.k, "grouped")


def _measure(context: StepContext, kernel: Kernel, dtype: torch.dtype) -> None:
    for shape in (Shape("own", 2, 4, 4, 353, 353, True), Shape("shared", 1, 2, 2, 353, 97, False)):
        _try(context, _check, kernel, shape, dtype, shape.k, "right")
    if kernel is matmul_attention and not context.toy and dtype == torch.float32:
        return  # minutes
    for shape in _shapes(context):
        _try(context, _time, kernel, shape, dtype, shape.h, "speed")


def _shapes(context: StepContext) -> list[Shape]:
    """Own entries of a batch in the middle of a context, and all of them over the prefix before."""
    rows, length = context.sizes.rows, context.sizes.context // 2
    heads, groups = (32, 4) if not context.toy else (2, 2)
    kv = heads // groups
    return [
        Shape("own", rows, heads, kv, length, length, True),
        Shape("shared", 1, kv, kv, rows * groups * length, length, False),
    ]


def _try(
    context: StepContext, measure: Callable[..., dict[str, Any]], kernel: Kernel, *arguments: Any
) -> None:
    """One kernel's failure is a result, too, and none of the others'."""
    shape, dtype, heads, case = arguments
    about = {"kernel": kernel.__name__, "dtype": str(dtype), "shape": shape.name}
    try:
        values = measure(context, kernel, shape, dtype, heads)
    except torch.AcceleratorError:
        raise  # nothing on this device works any more
    except Exception as error:
        values = {"error": f"{type(error).__name__}: {error}".partition("\n")[0][:300]}
    context.say(case, **about, **values)


def _check(
    context: StepContext, kernel: Kernel, shape: Shape, dtype: torch.dtype, heads: int
) -> dict[str, Any]:
    query, key, value = shape.inputs(context.device, dtype, heads)
    out, lse = kernel(query, key, value, shape.causal, _SCALE)
    expected, expected_lse = _definition(query, key, value, shape.causal)
    return {
        "output_error": float((out.double() - expected).norm() / expected.norm()),
        "lse_error": float((lse.double() - expected_lse).abs().max()),
        "lse_shape": list(lse.shape),
    }


def _definition(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    query, key, value = (part.double() for part in (query, key, value))
    scores = query @ key.transpose(-1, -2) * _SCALE
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(hidden, -torch.inf)
    return torch.softmax(scores, -1) @ value, torch.logsumexp(scores, -1)


def _time(
    context: StepContext, kernel: Kernel, shape: Shape, dtype: torch.dtype, heads: int
) -> dict[str, Any]:
    query, key, value = shape.inputs(context.device, dtype, heads)
    rounds = min(10, context.sizes.rounds) if kernel is not matmul_attention else 2
    took = seconds(context.device, partial(kernel, query, key, value, shape.causal, _SCALE), rounds)
    return {"seconds": took, "flops_per_s": shape.flops / took, "size": [shape.B, shape.h, shape.L, shape.n]}
