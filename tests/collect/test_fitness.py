"""Architectures the evaluator cannot serve are refused with the reason, before any work."""

import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, GptOssConfig, MambaConfig

from mctrace.collect.base_model import FrozenCausalLM
from mctrace.collect.fitness import check_model
from mctrace.context.errors import ModelError
from mctrace.context.tree import TreeShape
from tests.models import CONFIGS, tiny_model

TREE = TreeShape(8, 2)


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_architecture_that_is_served_passes(architecture, dtype):
    model = tiny_model(architecture)
    model.network.to(dtype)
    check_model(model, TREE)


def unfit(config) -> FrozenCausalLM:
    torch.manual_seed(0)
    return FrozenCausalLM(AutoModelForCausalLM.from_config(config).requires_grad_(False).eval())


def test_a_model_without_position_ids_is_refused():
    with pytest.raises(ModelError, match=r"a bloom model cannot be evaluated: it takes no position ids"):
        check_model(unfit(BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4)), TREE)


def test_a_model_without_attention_is_refused():
    with pytest.raises(ModelError, match="a mamba model cannot be evaluated"):
        check_model(unfit(MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2)), TREE)


def test_a_model_with_attention_sinks_is_refused():
    config = GptOssConfig(
        vocab_size=97, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, num_local_experts=2, num_experts_per_tok=1,
    )  # fmt: skip
    with pytest.raises(ModelError, match="attention sinks"):
        check_model(unfit(config), TREE)


def test_a_model_whose_labels_differ_is_refused(monkeypatch):
    model = tiny_model("gemma2")
    # A head that forgets to cap its logits is what an unknown architecture would look like.
    monkeypatch.setattr(FrozenCausalLM, "_head", lambda self, hidden: self.network.lm_head(hidden))
    with pytest.raises(ModelError, match=r"labels differ by .* nats per token from a plain forward pass"):
        check_model(model, TREE)


def test_a_model_with_too_few_positions_is_refused():
    with pytest.raises(ModelError, match="512 positions, too few for blocks of 256"):
        check_model(tiny_model(), TreeShape(256, 1))
