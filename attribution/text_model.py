"""A base model with its tokenizer, ready to evaluate texts: loaded once, asked many times."""

from dataclasses import dataclass
from typing import Any

import torch

from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.collect.config import ModelConfig
from mctrace.collect.measuring.architecture_check import check_architecture
from mctrace.collect.measuring.bring_up import load_configured_model, resolve_evaluable_model


@dataclass(frozen=True, eq=False)
class TextModel:
    """A frozen model, its tokenizer and the name it goes by."""

    name: str
    model: FrozenCausalLM
    tokenizer: Any

    @classmethod
    def load(cls, name: str, *, dtype: str = "float32", device: str = "auto") -> "TextModel":
        """An alias, a local folder or a hub id, as `mctrace collect` takes them.

        Raises ModelError when there is no such model or its architecture cannot be evaluated.
        """
        config = ModelConfig(name=name, dtype=dtype, device=device)  # type: ignore[arg-type]  # it is checked there
        source = resolve_evaluable_model(config)
        tokenizer = source.load_tokenizer()
        model = load_configured_model(source, config)
        if (model.device.type, model.network.dtype) != ("cpu", torch.float32):
            check_architecture(model.network.config, model.device, model.network.dtype)
        return cls(name, model, tokenizer)
