"""Tiny random base models built from configurations: no download, float32, milliseconds a pass."""

from collections.abc import Callable

import torch
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
)

from mctrace.collect.base_model import FrozenCausalLM

VOCABULARY = 97
WIDTH = 32

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}

CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**_SIZES, num_key_value_heads=2, tie_word_embeddings=True),
    "qwen2": lambda: Qwen2Config(**_SIZES, num_key_value_heads=2),
    "gpt_neox": lambda: GPTNeoXConfig(**_SIZES),
}


def tiny_model(architecture: str = "llama", seed: int = 0) -> FrozenCausalLM:
    """A random model whose attention and outputs are far from uniform, so that errors show."""
    torch.manual_seed(seed)
    network = AutoModelForCausalLM.from_config(CONFIGS[architecture]())
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6.0)
    return FrozenCausalLM(network.requires_grad_(False).eval())
