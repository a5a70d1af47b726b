"""Gaussian RoPE: rotary positions of spans, rotated by the centre and damped by the width.

The position of an entry is uncertain over its span. With a position drawn from a normal distribution of mean
c and variance v, the rotation by frequency w has the expectation exp(i·w·c)·exp(−w²v/2): a token is rotated
as in ordinary RoPE, a gist of 1,024 tokens keeps only the frequencies that are slow over its width. The
variance is that of the span's own tokens, (width² − 1)/12, which is 0 for a token.

Shapes: B contexts, N entries, H heads, C channels of one head, F = C/2 frequencies.
"""

import torch
from torch import Tensor

SLOWEST_TURN = 10_000.0
"""tokens per radian of the slowest frequency, as in ordinary RoPE"""

Rotation = tuple[Tensor, Tensor]
"""damped cosine and sine, each [B, N, F]"""


def gaussian_rotation(distance_to_cursor_BN: Tensor, span_width_BN: Tensor, num_channels: int) -> Rotation:
    """The rotation of each entry, from its distance to the cursor [B, N] and its span width [B, N] in tokens.

    Positions are relative to the cursor, since attention depends on their differences only.
    """
    exponent_F = torch.arange(0, num_channels, 2, device=span_width_BN.device) / num_channels
    frequency_F = SLOWEST_TURN**-exponent_F
    width_BN = span_width_BN.float()
    centre_BN = -(distance_to_cursor_BN.float() + (width_BN - 1) / 2)
    variance_BN = (width_BN**2 - 1).clamp(min=0) / 12
    angle_BNF = centre_BN.unsqueeze(-1) * frequency_F
    damping_BNF = torch.exp(-0.5 * variance_BN.unsqueeze(-1) * frequency_F**2)
    return angle_BNF.cos() * damping_BNF, angle_BNF.sin() * damping_BNF


def rotated(channels_BHNC: Tensor, rotation: Rotation) -> Tensor:
    """Rotated queries or keys [B, H, N, C]: channel f of the first half pairs with f of the second."""
    cosine_B1NF, sine_B1NF = (part.unsqueeze(1).to(channels_BHNC.dtype) for part in rotation)
    first, second = channels_BHNC.chunk(2, dim=-1)
    return torch.cat(
        [first * cosine_B1NF - second * sine_B1NF, second * cosine_B1NF + first * sine_B1NF], dim=-1
    )
