"""The 1B Llama with random weights whose speed the kit measures, and its toy."""

import torch

from benchmarks.evaluator_cases import RANDOM_1B, TREE, Case, make_model
from benchmarks.evaluator_methods import Bench
from benchmarks.gpu_kit.context import StepContext
from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.base_model.document_tree import DocumentTree
from mctrace.gists.network.gistnet import MeanGistNet, build_tree


def make_bench(context: StepContext) -> Bench:
    """The model in bfloat16, and the best matrix rate of its own layers' shapes."""
    bench = Bench(_toy(context.device) if context.toy else _model(context.device))
    for num_rows in (256,) if context.toy else (8192, 32768):
        bench.try_gemm(num_rows)
    return bench


def _model(device: torch.device) -> FrozenCausalLM:
    return make_model(RANDOM_1B, "bfloat16", str(device))


def _toy(device: torch.device) -> FrozenCausalLM:
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=1024, max_position_embeddings=131072, tie_word_embeddings=True,
    )  # fmt: skip
    with device:
        network = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return FrozenCausalLM(network.requires_grad_(False).eval())


def make_document(context: StepContext, model: FrozenCausalLM, case: Case) -> DocumentTree:
    # The kit's texts are in SmolLM2's tokens; a toy knows fewer, and any will do for it.
    tokens_T = context.tokens(case.trajectory().end) % int(model.network.config.vocab_size)
    return DocumentTree(tokens_T, build_tree(MeanGistNet(), model.embed(tokens_T), TREE))
