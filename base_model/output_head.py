"""Logits of a base model's last hidden states, for passes that run its layers without its own forward."""

import torch
from torch import Tensor
from transformers import PreTrainedModel


def head_logits(network: PreTrainedModel, hidden_cd: Tensor) -> Tensor:
    """Logits of last hidden states, as the architecture's own forward finishes them."""
    head, config = network.get_output_embeddings(), network.config.get_text_config()
    logits_cV: Tensor = head(hidden_cd.to(head.weight.device))
    if scale := getattr(config, "logit_scale", None):  # Cohere
        logits_cV = logits_cV * scale
    if scaling := getattr(config, "logits_scaling", None):  # Granite
        logits_cV = logits_cV / scaling
    if softcap := getattr(config, "final_logit_softcapping", None):  # Gemma
        logits_cV = softcap * torch.tanh(logits_cV / softcap)
    return logits_cV
