"""Loading of a base model: safetensors only, no remote code, frozen, in one dtype on its devices."""

from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.base_model.model_source import ModelSource, check_loading
from mctrace.base_model.weight_files import check_weight_files
from mctrace.errors import ModelError, brief
from mctrace.train.checkpoints.weights import not_finite

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_base_model(
    source: ModelSource, dtype: str, device: str = "auto", device_map: str | None = None
) -> FrozenCausalLM:
    """The model of `source`, frozen, in `dtype` on `device` ("auto": CUDA if there is one) or over several
    devices by `device_map`. Raises ModelError when transformers cannot load it safely."""
    transformers.utils.logging.disable_progress_bar()
    check_weight_files(source.folder)
    network = _load(source, DTYPES[dtype], device_map)
    choose_own_attention(network)
    network.requires_grad_(False).eval()
    if not device_map:
        network.to(resolve_device(device))
    if damage := not_finite(network.named_parameters()):
        narrow = "" if dtype == "float32" else f", or {dtype} is too narrow for it: try model.dtype = float32"
        raise ModelError(f"the model {source.name!r} in {dtype} {damage}{narrow}")
    return FrozenCausalLM(network)


def _load(source: ModelSource, dtype: torch.dtype, device_map: str | None) -> PreTrainedModel:
    placement: dict[str, Any] = {"device_map": device_map} if device_map else {}
    try:
        network, loaded = AutoModelForCausalLM.from_pretrained(
            source.folder,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the loading information, by name
            **placement,
        )
    except Exception as error:  # what a file that somebody made can set off is nowhere listed
        raise ModelError(
            f"cannot load the model {source.name!r} from {source.folder}: {brief(error)}"
        ) from error
    check_loading(source.folder, loaded)
    return network


def choose_own_attention(network: PreTrainedModel) -> None:
    """The attention that a plain forward pass needs: the fused default would leave soft-capping out."""
    if getattr(network.config.get_text_config(), "attn_logit_softcapping", None):
        network.set_attn_implementation("eager")


def resolve_device(device: str) -> torch.device:
    """ "auto" becomes CUDA where there is one; anything else is taken at its word (ModelError if absent)."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.zeros(1, device=resolved).item()
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device {device!r} cannot be used here: {error}") from error
    return resolved
