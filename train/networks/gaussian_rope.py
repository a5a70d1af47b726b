"""Rotary positions for entries that stand for spans: turned by the centre, damped by the width.

An entry's position is as uncertain as its span is wide. With a position drawn from a normal distribution of
mean c and variance v, the rotation by frequency w has the expectation exp(i·w·c)·exp(−w²v/2): a token turns
as in ordinary RoPE, while a gist of 1,024 tokens keeps only the frequencies too slow to notice its width. The
variance is that of the span's own tokens, (width² − 1)/12, which is 0 for a token.

Shapes: B contexts, N entries, H heads, C channels of one head, F = C/2 frequencies.
"""

import torch
from torch import Tensor

SLOWEST_TURN = 10_000.0
"""tokens per radian of the slowest frequency, as in ordinary RoPE"""

Rotation = tuple[Tensor, Tensor]
"""Damped cosine and sine, each [B, N, F]"""


def gaussian_rotation(distance_to_cursor_BN: Tensor, span_width_BN: Tensor, num_channels: int) -> Rotation:
    """The rotation of each entry, from the tokens between its end and the cursor and the tokens it spans.

    Only differences of positions matter to attention, so the cursor may be the origin.
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
    """Queries or keys with channel f of the first half and of the second turned together."""
    cosine_B1NF, sine_B1NF = (part.unsqueeze(1).to(channels_BHNC.dtype) for part in rotation)
    first, second = channels_BHNC.chunk(2, dim=-1)
    return torch.cat(
        [first * cosine_B1NF - second * sine_B1NF, second * cosine_B1NF + first * sine_B1NF], dim=-1
    )
