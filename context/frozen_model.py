"""The frozen base model as the rest of the project sees it.

A Protocol, so that the naive evaluation, GistNet and tests share one narrow door and nothing but the loader
knows transformers. What the counterfactual evaluator needs beyond it is in `collect/evaluator.py`.

Shapes: N entries, d embedding width, H kept positions, V vocabulary.
"""

from typing import Protocol

from torch import Tensor


class FrozenModel(Protocol):
    """A causal LM that takes embeddings. Nothing about it ever changes, so it is safe to share."""

    @property
    def embedding_dim(self) -> int: ...

    @property
    def max_positions(self) -> int: ...

    def embed(self, tokens_T: Tensor) -> Tensor:
        """Input embeddings [T, d] of token ids [T], as the model itself would look them up."""
        ...

    def logits(self, embeddings_ND: Tensor, position_N: Tensor, keep_H: Tensor) -> Tensor:
        """Next-token logits [H, V] after the entries `keep_H` of a whole context.

        Attention is causal over all entries, whatever gaps the position ids have.
        """
        ...
