"""Tiny random base models built from configurations: no download, float32, milliseconds a pass."""

from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.base_model.loading import choose_own_attention

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
    "qwen3": lambda: Qwen3Config(**_SIZES, num_key_value_heads=2, head_dim=8),
    "gpt_neox": lambda: GPTNeoXConfig(**_SIZES),
    # Local attention over 8 entries in every layer, in every other layer, soft-capped scores and logits.
    "mistral": lambda: MistralConfig(**_SIZES, num_key_value_heads=2, sliding_window=8),
    "gemma2": lambda: Gemma2Config(
        **_SIZES,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=8,
        attn_logit_softcapping=1.0,
        final_logit_softcapping=1.0,
    ),
    "gemma3": lambda: Gemma3TextConfig(
        **_SIZES,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
    ),
    # Learned absolute positions.
    "gpt2": lambda: GPT2Config(vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=2, n_head=4, n_positions=512),
    # Logits that are scaled after the head.
    "cohere": lambda: CohereConfig(**_SIZES, num_key_value_heads=2, logit_scale=0.3),
    "granite": lambda: GraniteConfig(**_SIZES, num_key_value_heads=2, logits_scaling=2.0),
}


def tiny_model(architecture: str = "llama", seed: int = 0) -> FrozenCausalLM:
    """A random model whose attention and outputs are far from uniform, so that errors show."""
    torch.manual_seed(seed)
    config = CONFIGS[architecture]()
    network = AutoModelForCausalLM.from_config(config)
    choose_own_attention(network)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6.0)
    return FrozenCausalLM(network.requires_grad_(False).eval())


def save_tiny_model(folder: Path, seed: int = 0) -> Path:
    """A folder any command takes as --model: a tiny Llama and a byte-level tokenizer."""
    alphabet = sorted(ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(**{**_SIZES, "vocab_size": len(alphabet)}, num_key_value_heads=2, pad_token_id=0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder
