"""Bring-up of a base model: resolve it, check its architecture, load it, check the gists, size the batches.

Every command that evaluates contexts goes through here, so that none evaluates a model that another refuses.
`resolve_evaluable_model` needs no weights and comes before any other work; `bring_up` loads them in the
process that evaluates.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.base_model.loading import load_base_model, resolve_dtype
from mctrace.base_model.model_source import ModelSource, resolve_model
from mctrace.collect.config import GistConfig, ModelConfig
from mctrace.collect.measuring.architecture_check import check_architecture
from mctrace.collect.measuring.evaluator import Batching
from mctrace.datasets.store.provenance import Provenance
from mctrace.errors import ModelError
from mctrace.gists.network.gistnet import GistNet
from mctrace.gists.network.loading import load_gists, place_gistnet


@dataclass(frozen=True)
class EvaluationModels:
    """Base model and GistNet of one process, on one device, and the entries that it runs at once."""

    model: FrozenCausalLM
    gistnet: GistNet
    batching: Batching


def resolve_evaluable_model(config: ModelConfig) -> ModelSource:
    """Local folder of the configured model, its architecture checked on the CPU in float32; loads no weights.

    Raises ModelError when there is no such model or labels of its architecture would be wrong.
    """
    source = resolve_model(config.name, config.revision)
    check_architecture(source.config, "cpu", torch.float32)
    return source


def bring_up(
    source: ModelSource,
    model: ModelConfig,
    gists: GistConfig,
    provenance: Provenance,
    batch_tokens: int | Literal["auto"] = "auto",
) -> EvaluationModels:
    """Load the base model and the GistNet of `provenance`, checked on the device and in the dtype of `model`.

    Raises ModelError when weights or gists differ from those planned with, do not fit each other, or give
    wrong labels there.
    """
    if source.model_hash != provenance.model_hash:
        raise ModelError(f"model {model.name!r} has other weights here than where it was planned")
    gistnet = load_gists(gists.source, gists.num_anchors)
    if gistnet.content_hash != provenance.gist_hash:
        raise ModelError(f"the GistNet {gists.source!r} is another one here than where it was planned")
    frozen = load_configured_model(source, model.in_dtype(provenance.dtype))
    place_gistnet(gistnet, frozen, provenance.block_size)
    check_architecture(frozen.network.config, frozen.device, frozen.network.dtype)
    return EvaluationModels(
        frozen, gistnet, Batching(frozen.batch_tokens if batch_tokens == "auto" else batch_tokens)
    )


def load_configured_model(source: ModelSource, config: ModelConfig) -> FrozenCausalLM:
    """Weights of `source` in the configured dtype, on the configured device or devices."""
    dtype = resolve_dtype(config.dtype, config.device, config.device_map)
    return load_base_model(source, dtype, config.device, config.device_map)
