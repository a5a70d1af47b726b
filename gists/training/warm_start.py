"""The base model's first layers, for a GistNet to start from."""

from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.errors import ModelError
from mctrace.gists.network.layers import LLAMA_NAMES
from mctrace.gists.training.initialisation import BaseLayers


def base_layers(model: FrozenCausalLM, num_layers: int) -> BaseLayers:
    """The first `num_layers` layers in float32.

    Raises ModelError unless they are of the Llama family's shape: GistNet's layers have no biases, and heads
    that together are as wide as the embeddings.
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
            f"{num_layers} first layers of this {config.model_type} model cannot be copied into a GistNet, "
            "which needs as many of the Llama family: set gist_train.network.copy_layers = false"
        )
    return BaseLayers(
        config.num_attention_heads,
        config.num_key_value_heads,
        config.intermediate_size,
        float(config.rope_parameters["rope_theta"]),
        weights,
    )
