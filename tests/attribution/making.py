"""A tiny model whose tokens are bytes, and texts for it."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mctrace.attribution.text_model import TextModel
from mctrace.base_model.causal_lm import FrozenCausalLM

TEXT = "The fox sat. The dog ran! A cat, e.g. mine, slept?\n\nWas it 3.5 metres? Yes. It was."


def sharp_model(folder: Path) -> TextModel:
    """The model saved in `folder`, with weights large enough that every part of a text matters."""
    network = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6.0)
    model = FrozenCausalLM(network.requires_grad_(False).eval())
    return TextModel("tiny", model, AutoTokenizer.from_pretrained(folder))
