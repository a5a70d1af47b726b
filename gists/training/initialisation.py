"""Initial network of a training run: untrained, with a base model's first layers, or an earlier GistNet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.errors import ModelError
from mctrace.gists.config import GistNetSizes
from mctrace.gists.network.llama_layer import LLAMA_NAMES
from mctrace.gists.network.loading import load_gistnet
from mctrace.gists.network.transformer_gistnet import GistNetConfig, TransformerGistNet


@dataclass(frozen=True)
class BaseLayers:
    """First layers of a Llama-like base model: its sizes, and each layer's weights by name."""

    num_heads: int
    num_kv_heads: int
    feedforward_width: int
    rope_theta: float
    weights: Sequence[Mapping[str, Tensor]]


def fresh_gistnet(
    sizes: GistNetSizes,
    *,
    block_size: int,
    embedding_dim: int,
    embedding_scale: float,
    base_layers: BaseLayers | None,
    seed: int,
) -> TransformerGistNet:
    """An untrained network, whose gists are the mean of the children.

    `embedding_scale` is the standard deviation of the base model's embeddings; `base_layers` are required
    with `sizes.copy_layers`.
    """
    torch.manual_seed(seed)
    config = GistNetConfig(
        embedding_dim,
        block_size,
        sizes.pooling,
        sizes.width,
        sizes.num_layers,
        sizes.num_heads,
        sizes.num_heads,
        sizes.feedforward_width,
        num_picks=sizes.num_picks,
        num_levels=sizes.num_levels,
    )
    if sizes.copy_layers:
        assert base_layers is not None
        config = replace(
            config,
            width=embedding_dim,
            num_heads=base_layers.num_heads,
            num_kv_heads=base_layers.num_kv_heads,
            feedforward_width=base_layers.feedforward_width,
            rope_theta=base_layers.rope_theta,
        )
    network = TransformerGistNet(config)
    network.input_scale.fill_(embedding_scale)
    if sizes.copy_layers and base_layers is not None:
        network.copy_layers(base_layers.weights)
    return network


def earlier_gistnet(source: str | Path, *, block_size: int, embedding_dim: int) -> TransformerGistNet:
    """A trained GistNet to continue from, by folder or shipped name.

    Raises ModelError when it has no trainable weights or does not fit the tree and the base model.
    """
    network = load_gistnet(str(source))
    if not isinstance(network, TransformerGistNet):
        raise ModelError(f"--init {source}: a {type(network).__name__} has no weights to continue from")
    network.check_fits(block_size, embedding_dim)
    return network.requires_grad_(True)


def base_layers(model: FrozenCausalLM, num_layers: int) -> BaseLayers:
    """The base model's first `num_layers` layers in float32.

    Raises ModelError unless they have the Llama family's shape: no biases, and heads that together are as
    wide as the embeddings.
    """
    config = model.network.config.get_text_config()
    layers = getattr(getattr(model.network, "model", None), "layers", ())
    weights = [
        {name: weight.detach().float().cpu() for name, weight in layer.state_dict().items()}
        for layer in layers[:num_layers]
    ]
    expected = {f"{name}.weight" for name in LLAMA_NAMES.values()}
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    is_llama = (
        len(weights) == num_layers
        and all(set(layer) == expected for layer in weights)
        and getattr(config, "hidden_act", None) == "silu"
        and head_width * config.num_attention_heads == config.hidden_size
        and model.embedding_dim == config.hidden_size
    )
    if not is_llama:
        raise ModelError(
            f"the first {num_layers} layers of this {config.model_type} model cannot be copied into a "
            "GistNet, which needs that many layers of the Llama family: set "
            "gist_train.network.copy_layers = false"
        )
    return BaseLayers(
        config.num_attention_heads,
        config.num_key_value_heads,
        config.intermediate_size,
        float(config.rope_parameters["rope_theta"]),
        weights,
    )
