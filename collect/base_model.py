"""The frozen base model: any Hugging Face causal LM, behind the FrozenModel protocol.

Never remote code, never pickled weights. A working context has a jump in its position ids at every gist, and
transformers reads such a jump as the border between packed sequences when it is given no attention mask, and
silently blocks attention across it; so every call here passes an explicit mask.
"""

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

from mctrace.collect.model_source import ModelSource, max_positions
from mctrace.context.errors import ModelError
from mctrace.context.frozen_model import KVCache

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class FrozenCausalLM:
    """A transformers causal LM that takes embeddings and keeps every key and value it computes."""

    network: PreTrainedModel

    @property
    def embedding_dim(self) -> int:
        return int(self.network.get_input_embeddings().weight.shape[1])

    @property
    def max_positions(self) -> int:
        return max_positions(self.network.config)

    @property
    def device(self) -> torch.device:
        """Where embeddings enter; layers may live elsewhere under a device_map."""
        return torch.device(self.network.get_input_embeddings().weight.device)

    @property
    def num_layer_parameters(self) -> int:
        """Parameters every recomputed entry is multiplied with: all but embeddings and output head."""
        outside = {id(self.network.get_input_embeddings().weight)}
        outside.add(id(self.network.get_output_embeddings().weight))
        return sum(p.numel() for p in self.network.parameters() if id(p) not in outside)

    @property
    def num_head_parameters(self) -> int:
        """Parameters of the output head, applied to entries whose loss is read."""
        return int(self.network.get_output_embeddings().weight.numel())

    def embed(self, tokens_T: Tensor) -> Tensor:
        with torch.inference_mode():
            embeddings_Td: Tensor = self.network.get_input_embeddings()(tokens_T.to(self.device))
        return embeddings_Td

    def logits(
        self,
        embeddings_ND: Tensor,
        position_N: Tensor,
        keep_H: Tensor,
        prefix: KVCache | None = None,
        *,
        keep_cache: bool = True,
    ) -> tuple[Tensor, KVCache]:
        cache = prefix if prefix is not None else DynamicCache() if keep_cache else None
        num_before = cache.get_seq_length() if cache is not None else 0
        mask = torch.ones(1, num_before + len(embeddings_ND), dtype=torch.long, device=embeddings_ND.device)
        output = self.network(
            inputs_embeds=embeddings_ND[None],
            position_ids=position_N[None],
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=keep_H,
        )
        return output.logits[0], output.past_key_values if keep_cache else None

    def crop(self, cache: KVCache, num_entries: int) -> KVCache:
        """Views of the first `num_entries` keys and values of every layer; nothing is copied here."""
        cropped = DynamicCache()
        if num_entries == 0:
            return cropped
        for layer in cache.layers:
            view = DynamicLayer()
            view.lazy_initialization(layer.keys, layer.values)
            view.keys = layer.keys[..., :num_entries, :]
            view.values = layer.values[..., :num_entries, :]
            cropped.layers.append(view)
        return cropped


def load_base_model(
    source: ModelSource, dtype: str, device: str = "auto", device_map: str | None = None
) -> FrozenCausalLM:
    """The model of `source`, frozen, in `dtype` on `device` ("auto": CUDA if there is one) or over several
    devices by `device_map`. Raises ModelError when transformers cannot load it safely."""
    transformers.utils.logging.disable_progress_bar()
    placement: dict[str, Any] = {"device_map": device_map} if device_map else {}
    try:
        network = AutoModelForCausalLM.from_pretrained(
            source.folder, dtype=DTYPES[dtype], trust_remote_code=False, use_safetensors=True, **placement
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"cannot load the model {source.name!r} from {source.folder}: {error}") from error
    network.requires_grad_(False).eval()
    if not device_map:
        network.to(resolve_device(device))
    return FrozenCausalLM(network)


def resolve_device(device: str) -> torch.device:
    """ "auto" becomes CUDA where there is one; anything else is taken at its word (ModelError if absent)."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device {device!r} cannot be used here: {error}") from error
    return resolved
