"""Cases of the evaluator benchmark: a base model, a text of tokens, and named LOD maps over it."""

from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.base_model.document_tree import DocumentTree
from mctrace.base_model.loading import DTYPES, load_base_model, resolve_device
from mctrace.collect.planning.map_policies import recency_map
from mctrace.context.lod_map import LODMap
from mctrace.context.trajectory import Trajectory
from mctrace.context.tree import TreeShape
from mctrace.gists.network.gistnet import MeanGistNet, build_tree

TREE = TreeShape(32, 2)
HORIZON = 128
PROTECTED_TAIL = 128
STRIDE = 32
RANDOM_1B = "random-1b"
"""a Llama of 1.2 billion random parameters: speed does not depend on the weights"""

_TEXTS = (
    "_pydecimal.py", "turtle.py", "typing.py", "argparse.py", "tarfile.py", "inspect.py",
    "doctest.py", "pickle.py", "ipaddress.py", "pdb.py", "subprocess.py",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A trajectory by name: `level0` shows N tokens at level 0, `recency` 7,072 tokens ever coarser."""

    map: str
    num_tokens: int
    num_cursors: int

    def trajectory(self, start: int = 0) -> Trajectory:
        cursors = tuple(start + self.num_tokens + STRIDE * i for i in range(self.num_cursors))
        if self.map == "recency":
            return Trajectory(recency_map(TREE, start, cursors[0], (256, 2048)), cursors, HORIZON)
        return Trajectory(LODMap.of_tokens(TREE, start, cursors[0]), cursors, HORIZON)


FULL = tuple(
    Case(name, num_tokens, num_cursors)
    for name, num_tokens in (("level0", 512), ("level0", 1024), ("level0", 4096), ("recency", 7072))
    for num_cursors in (1, 8, 32)
)
QUICK = (Case("level0", 512, 1), Case("level0", 512, 8), Case("recency", 7072, 1))
GPU = (Case("level0", 1024, 8), Case("level0", 8192, 8), Case("level0", 8192, 32))


def make_model(name: str, dtype: str, device: str) -> FrozenCausalLM:
    """The named base model, or a randomly initialised one where no weights are at hand."""
    if name != RANDOM_1B:
        from mctrace.base_model.model_source import resolve_model

        return load_base_model(resolve_model(name), dtype, device)
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=128256, max_position_embeddings=131072, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(resolve_device(device)):
        network = AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype])
    return FrozenCausalLM(network.requires_grad_(False).eval())


def make_documents(model: FrozenCausalLM, name: str, count: int, num_tokens: int) -> list[DocumentTree]:
    """`count` documents of at least `num_tokens`: sources of the standard library one after another, or
    random tokens for a random model."""
    tokens = _random_tokens(model, count * num_tokens) if name == RANDOM_1B else _source_tokens(name)
    if len(tokens) < count * num_tokens:
        raise SystemExit(f"the benchmark's texts have {len(tokens)} tokens, {count * num_tokens} are needed")
    pieces = tokens[: count * num_tokens].view(count, num_tokens)
    return [DocumentTree(piece, build_tree(MeanGistNet(), model.embed(piece), TREE)) for piece in pieces]


def _random_tokens(model: FrozenCausalLM, num_tokens: int) -> Tensor:
    vocabulary = int(model.network.config.vocab_size)
    return torch.randint(vocabulary, (num_tokens,), generator=torch.Generator().manual_seed(0))


def _source_tokens(name: str) -> Tensor:
    import sysconfig
    from pathlib import Path

    from mctrace.base_model.model_source import resolve_model

    tokenizer = resolve_model(name).load_tokenizer()
    folder = Path(sysconfig.get_paths()["stdlib"])
    texts = [(folder / file).read_text(encoding="utf-8") for file in _TEXTS]
    return torch.tensor(list(chain.from_iterable(tokenizer(texts)["input_ids"])))
