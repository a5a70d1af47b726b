"""GistNet's transformer layer: the Llama family's, so that a base model's weights can be copied.

RMSNorm, rotary attention with grouped keys and values, RMSNorm, gated feed-forward; no biases.

Shapes: M nodes, S positions (children and a slot), w inner width, h heads, e width of a head.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

LLAMA_NAMES = {
    "attention_norm": "input_layernorm",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "attention_out": "self_attn.o_proj",
    "feedforward_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
"""name of each part of a layer in the Llama models of transformers"""


@dataclass(frozen=True)
class LayerSizes:
    """Sizes that determine the shapes of a layer's weights."""

    width: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    feedforward_width: int
    rope_theta: float


class GistLayer(nn.Module):
    """One pre-norm decoder layer; the caller passes the attention mask."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        self.sizes = sizes
        width, kv_width = sizes.width, sizes.num_kv_heads * sizes.head_width
        self.attention_norm = nn.RMSNorm(width, eps=1e-5)
        self.query = nn.Linear(width, sizes.num_heads * sizes.head_width, bias=False)
        self.key = nn.Linear(width, kv_width, bias=False)
        self.value = nn.Linear(width, kv_width, bias=False)
        self.attention_out = nn.Linear(sizes.num_heads * sizes.head_width, width, bias=False)
        self.feedforward_norm = nn.RMSNorm(width, eps=1e-5)
        self.gate = nn.Linear(width, sizes.feedforward_width, bias=False)
        self.up = nn.Linear(width, sizes.feedforward_width, bias=False)
        self.down = nn.Linear(sizes.feedforward_width, width, bias=False)

    def forward(self, hidden_MSw: Tensor, mask_SS: Tensor) -> Tensor:
        hidden_MSw = hidden_MSw + self._attend(self.attention_norm(hidden_MSw), mask_SS)
        normed_MSw = self.feedforward_norm(hidden_MSw)
        gated = nn.functional.silu(self.gate(normed_MSw)) * self.up(normed_MSw)
        fed_MSw: Tensor = hidden_MSw + self.down(gated)
        return fed_MSw

    def _attend(self, normed_MSw: Tensor, mask_SS: Tensor) -> Tensor:
        num_nodes, num_positions, _ = normed_MSw.shape
        cos_Se, sin_Se = _rotations(num_positions, self.sizes, normed_MSw.device)

        def heads(projected: Tensor, num_heads: int) -> Tensor:
            return projected.view(num_nodes, num_positions, num_heads, -1).transpose(1, 2)

        query_MhSe = _rotate(heads(self.query(normed_MSw), self.sizes.num_heads), cos_Se, sin_Se)
        key_MhSe = _rotate(heads(self.key(normed_MSw), self.sizes.num_kv_heads), cos_Se, sin_Se)
        value_MhSe = heads(self.value(normed_MSw), self.sizes.num_kv_heads)
        mixed_MhSe = nn.functional.scaled_dot_product_attention(
            query_MhSe, key_MhSe, value_MhSe, attn_mask=mask_SS, enable_gqa=True
        )
        mixed: Tensor = self.attention_out(mixed_MhSe.transpose(1, 2).reshape(num_nodes, num_positions, -1))
        return mixed


def _rotations(num_positions: int, sizes: LayerSizes, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [S, e] of rotary position embedding, halves repeated as Llama lays them out."""
    exponent = torch.arange(0, sizes.head_width, 2, device=device, dtype=torch.float32) / sizes.head_width
    angle = torch.outer(
        torch.arange(num_positions, device=device, dtype=torch.float32), sizes.rope_theta**-exponent
    )
    angle_Se = torch.cat([angle, angle], dim=-1)
    return angle_Se.cos(), angle_Se.sin()


def _rotate(states_MhSe: Tensor, cos_Se: Tensor, sin_Se: Tensor) -> Tensor:
    first, second = states_MhSe.chunk(2, dim=-1)
    turned_MhSe = torch.cat([-second, first], dim=-1)
    return states_MhSe * cos_Se.to(states_MhSe.dtype) + turned_MhSe * sin_Se.to(states_MhSe.dtype)
