"""The frozen base model as the rest of the project sees it.

A Protocol, so that the evaluator, GistNet and tests share one narrow door and nothing but the loader knows
transformers. Shapes: N entries, d embedding width, P cached entries, H kept positions, V vocabulary.
"""

from typing import Any, Protocol

from torch import Tensor

KVCache = Any
"""Keys and values of every layer; opaque to everyone but the model that made it."""


class FrozenModel(Protocol):
    """A causal LM that takes embeddings. Nothing about it ever changes, so it is safe to share."""

    @property
    def embedding_dim(self) -> int: ...

    @property
    def max_positions(self) -> int: ...

    def embed(self, tokens_T: Tensor) -> Tensor:
        """Input embeddings [T, d] of token ids [T], as the model itself would look them up."""
        ...

    def logits(
        self,
        embeddings_ND: Tensor,
        position_N: Tensor,
        keep_H: Tensor,
        prefix: KVCache | None = None,
        *,
        keep_cache: bool = True,
    ) -> tuple[Tensor, KVCache]:
        """Next-token logits [H, V] after the entries `keep_H`, and the cache of prefix + entries.

        `keep_H` indexes the N entries given here, not those of the prefix. Attention is causal over prefix
        and entries alike, whatever gaps the position ids have. Without `keep_cache` the cache is None.
        `prefix` itself is left as it was.
        """
        ...

    def crop(self, cache: KVCache, num_entries: int) -> KVCache:
        """The cache of the first `num_entries` entries; `cache` itself stays as it is."""
        ...
