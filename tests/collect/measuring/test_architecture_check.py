"""Architectures the evaluator cannot serve are refused with the reason, before any work."""

import pytest
import torch
from transformers import (
    BloomConfig,
    FalconConfig,
    GPTJConfig,
    GptOssConfig,
    Lfm2Config,
    MambaConfig,
    Phi3Config,
)

from mctrace.base_model import causal_lm
from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.collect.measuring.architecture_check import check_architecture
from mctrace.errors import ModelError
from tests.models import CONFIGS

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

UNFIT = {
    "bloom": (BloomConfig(hidden_size=32, n_layer=2, n_head=4), "it takes no position ids"),
    "mamba": (MambaConfig(hidden_size=32, num_hidden_layers=2), "cannot be evaluated"),
    "gpt_oss": (
        GptOssConfig(
            hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, num_local_experts=2, num_experts_per_tok=1,
        ),
        "attention sinks",
    ),
    "gptj": (GPTJConfig(n_embd=32, n_layer=2, n_head=4, rotary_dim=4), "only 0 of its 2 layers"),
    "falcon": (FalconConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4), "of its 2 layers"),
    "lfm2": (
        Lfm2Config(
            hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, layer_types=["conv", "full_attention", "conv"],
        ),
        "layers are attention",
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("architecture", CONFIGS)
def test_every_architecture_that_is_served_passes(architecture, dtype):
    check_architecture(CONFIGS[architecture](), "cpu", dtype)


def test_a_configuration_that_cannot_be_made_narrow_is_checked_at_its_own_width():
    factors = [1.0] * 4
    config = Phi3Config(
        vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=0, original_max_position_embeddings=256,
        rope_parameters={
            "rope_type": "longrope", "rope_theta": 1e4, "short_factor": factors, "long_factor": factors,
        },
    )  # fmt: skip
    check_architecture(config, "cpu", torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("architecture", UNFIT)
def test_what_cannot_be_served_is_refused_with_the_reason(architecture, dtype):
    config, reason = UNFIT[architecture]
    with pytest.raises(ModelError, match=reason) as refusal:
        check_architecture(config, "cpu", dtype)
    assert f"a {config.model_type} model cannot be evaluated" in str(refusal.value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_model_whose_labels_differ_is_refused(monkeypatch, dtype):
    # A head that forgets to cap its logits is what an unknown architecture would look like.
    monkeypatch.setattr(causal_lm, "head_logits", lambda network, hidden: network.lm_head(hidden))
    with pytest.raises(ModelError, match=r"differ by .* from its plain forward pass"):
        check_architecture(CONFIGS["gemma2"](), "cpu", dtype)


def test_a_kernel_that_is_wrong_in_half_precision_only_is_found(monkeypatch):
    right = FrozenCausalLM.token_nll

    def wrong(self, embeddings_BLd, position_BL, targets_H, plans):
        nll_BH = right(self, embeddings_BLd, position_BL, targets_H, plans)
        return nll_BH if self.network.dtype == torch.float32 else nll_BH.flip(1)

    monkeypatch.setattr(FrozenCausalLM, "token_nll", wrong)
    check_architecture(CONFIGS["llama"](), "cpu", torch.float32)
    with pytest.raises(ModelError, match="of their size in bfloat16"):
        check_architecture(CONFIGS["llama"](), "cpu", torch.bfloat16)
