"""A tiny frozen model, a GistNet for it, and a repetitive document."""

import numpy as np
import torch

from mctrace.context.tree import TreeShape
from mctrace.gists.config import GistObjectiveConfig, GistOptimiserConfig, GistTrainConfig
from mctrace.gists.network.transformer_gistnet import GistNetConfig, TransformerGistNet
from tests.models import VOCABULARY, WIDTH

TREE = TreeShape(4, 2)


def tiny_gistnet(block_size: int = 4, *, is_trained: bool = False, seed: int = 0) -> TransformerGistNet:
    torch.manual_seed(seed)
    sizes = {"width": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "feedforward_width": 32}
    made = TransformerGistNet(GistNetConfig(WIDTH, block_size, "cls", **sizes))
    if is_trained:
        torch.nn.init.normal_(made.poolers[0].project_out.weight, std=0.1)
    return made


def document(num_tokens: int, seed: int = 0) -> np.ndarray:
    """Token ids with repetitions, so that earlier context lowers the loss."""
    chance = np.random.default_rng(seed)
    phrases = chance.integers(0, VOCABULARY, size=(3, 8))
    return np.concatenate([phrases[i] for i in chance.integers(3, size=num_tokens // 8 + 1)])[
        :num_tokens
    ].astype(np.int32)


def tiny_config(total_steps: int = 30, **objective: object) -> GistTrainConfig:
    values = {
        "window_tokens": 48, "protected_tail": 4, "scored_tokens": 16, "curriculum_steps": 4,
        "min_replaced": 0.4, "near_share": 0.0, **objective,
    }  # fmt: skip
    return GistTrainConfig(
        windows_per_step=2,
        students_per_window=2,
        num_validation_windows=6,
        objective=GistObjectiveConfig(**values),
        optimiser=GistOptimiserConfig(learning_rate=3e-3, warmup_steps=2, total_steps=total_steps),
    )
