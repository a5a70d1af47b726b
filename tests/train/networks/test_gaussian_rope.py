"""Gaussian RoPE against its definition: the mean rotation over an entry's tokens."""

import math

import pytest
import torch

from mctrace.train.networks.gaussian_rope import SLOWEST_TURN, gaussian_rotation, rotated

CHANNELS = 8


def rotation_of(distance, width):
    return gaussian_rotation(torch.tensor([[distance]]), torch.tensor([[width]]), CHANNELS)


def test_a_token_is_rotated_as_in_ordinary_rope():
    cosine, sine = rotation_of(distance=7, width=1)
    for f in range(CHANNELS // 2):
        angle = -7 * SLOWEST_TURN ** (-2 * f / CHANNELS)
        assert cosine[0, 0, f].item() == pytest.approx(math.cos(angle), abs=1e-6)
        assert sine[0, 0, f].item() == pytest.approx(math.sin(angle), abs=1e-6)


@pytest.mark.parametrize("width", [4, 32, 1024])
def test_a_gist_is_rotated_by_the_expectation_over_a_normal_distribution_of_its_tokens(width):
    cosine, sine = rotation_of(distance=100, width=width)
    positions = -100.0 - torch.arange(width, dtype=torch.float64)
    draws = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draws = positions.mean() + draws * positions.std(correction=0)
    for f in range(CHANNELS // 2):
        angle = draws * SLOWEST_TURN ** (-2 * f / CHANNELS)
        assert cosine[0, 0, f].item() == pytest.approx(float(angle.cos().mean()), abs=0.01)
        assert sine[0, 0, f].item() == pytest.approx(float(angle.sin().mean()), abs=0.01)


def test_wide_spans_keep_slow_frequencies_only():
    cosine, sine = rotation_of(distance=0, width=1024)
    size = (cosine**2 + sine**2).sqrt().flatten()
    assert size[0] < 1e-6
    assert (size.diff() >= 0).all()


def test_attention_depends_on_differences_of_positions_only():
    generator = torch.Generator().manual_seed(1)
    queries, keys = torch.randn(2, 1, 1, 3, CHANNELS, generator=generator)
    widths = torch.tensor([[1, 16, 4]])

    def logits(shift):
        rotation = gaussian_rotation(torch.tensor([[40, 20, 3]]) + shift, widths, CHANNELS)
        return rotated(queries, rotation) @ rotated(keys, rotation).transpose(-1, -2)

    torch.testing.assert_close(logits(0), logits(1000), rtol=1e-3, atol=1e-3)
