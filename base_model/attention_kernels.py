"""Attention together with its log-sum-exp, by whatever kernel a device has for it.

Partial softmaxes can only be merged by their log-sum-exp, which torch's public function does not return. So
this calls the fused operators underneath, which are private and may change with torch. Each device and dtype
therefore has an order of preference that ends in plain matrix products: a kernel that refuses once is left
alone from then on, and `refusals` says why.

Shapes: B rows, h heads, L queries, n keys, e head width.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Kernel = Callable[[Tensor, Tensor, Tensor, bool, float], tuple[Tensor, Tensor]]
"""(queries [B, h, L, e], keys, values [B, h, n, e], causal, scale) to outputs [B, h, L, e] and log-sum-exp
[B, h, L] in float32, natural logarithm. `causal` needs as many keys as queries."""

_SCORES_PER_CHUNK = 2**26
"""scores in float32 that `matmul_attention` holds at once: 256 MiB"""

_log = logging.getLogger(__name__)
_refused: dict[tuple[str, str, torch.dtype, int], str] = {}


def flash_cpu(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """The CPU's fused kernel, any float dtype."""
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, causal, scale=scale
    )
    return out, lse


def flash_cuda(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Flash attention, half precision only; keys may have fewer heads than queries."""
    out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
        query, key, value, 0.0, causal, False, scale=scale
    )
    return out, lse[:, :, : query.shape[2]]


def efficient_cuda(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Memory-efficient attention, float32 too; it pads the log-sum-exp."""
    out, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, None, True, 0.0, causal, scale=scale
    )
    return out, lse[:, :, : query.shape[2]]


def varlen_cuda(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Flash attention behind torch's public function for packed sequences, half precision only."""
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    B, h, L, e = query.shape
    n = key.shape[2]
    packed_query, packed_key, packed_value = (
        part.transpose(1, 2).reshape(-1, part.shape[1], e) for part in (query, key, value)
    )
    end_query, end_key = (
        torch.arange(0, (B + 1) * length, length, dtype=torch.int32, device=query.device) for length in (L, n)
    )
    out, lse = varlen_attn(
        packed_query,
        packed_key,
        packed_value,
        end_query,
        end_key,
        L,
        n,
        return_aux=AuxRequest(lse=True),
        scale=scale,
        window_size=(-1, 0) if causal else (-1, -1),
    )
    return out.view(B, L, h, e).transpose(1, 2), lse.view(h, B, L).transpose(0, 1)


def matmul_attention(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention from matrix products, softmax in float32, some queries at a time: any device and dtype."""
    B, h, L, _ = query.shape
    index_n = torch.arange(key.shape[2], device=query.device)
    per_chunk = max(1, _SCORES_PER_CHUNK // (B * h * key.shape[2]))
    outs, lses = [], []
    for first in range(0, L, per_chunk):
        query_Bhce = query[:, :, first : first + per_chunk]
        scores = (query_Bhce @ key.transpose(-1, -2)).float() * scale
        if causal:
            index_c = torch.arange(first, first + query_Bhce.shape[2], device=query.device)
            scores = scores.masked_fill(index_n > index_c[:, None], -math.inf)
        lse_Bhc = torch.logsumexp(scores, dim=-1)
        outs.append(torch.exp(scores - lse_Bhc[..., None]).to(value.dtype) @ value)
        lses.append(lse_Bhc)
    return torch.cat(outs, dim=2), torch.cat(lses, dim=2)


def kernels_for(device_type: str, dtype: torch.dtype) -> Sequence[Kernel]:
    """Kernels in order of preference; the last can do everything."""
    if device_type == "cpu":
        return flash_cpu, matmul_attention
    if device_type != "cuda":
        return (matmul_attention,)
    if dtype == torch.float32:
        return efficient_cuda, matmul_attention
    return flash_cuda, varlen_cuda, matmul_attention


def attention_with_lse(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """A `Kernel`: the first of those for this device and dtype that has not refused these tensors' kind.

    Running out of memory and a broken device are raised: another kernel would fail too.
    """
    *preferred, last = kernels_for(query.device.type, query.dtype)
    for kernel in preferred:
        kind = (kernel.__name__, query.device.type, query.dtype, query.shape[-1])
        if kind in _refused:
            continue
        try:
            return kernel(query, key, value, causal, scale)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except (RuntimeError, TypeError, AttributeError, ImportError, ValueError) as error:
            _refused[kind] = str(error).partition("\n")[0]
            _log.warning("attention kernel %s on %s %s, width %d refused: %s", *kind, _refused[kind])
    return last(query, key, value, causal, scale)


def refusals() -> Mapping[str, str]:
    """Reason of each kernel that refused in this process, by kernel, device, dtype and head width."""
    return {f"{name} {device} {dtype} {width}": why for (name, device, dtype, width), why in _refused.items()}
