"""Protocols of the frozen base model, as the rest of the project uses it.

Protocols, so that only `causal_lm.py` knows transformers. The naive evaluation and GistNet need
`FrozenModel`; the counterfactual evaluator needs `EvaluatedModel`.

Shapes: N entries, d embedding width, H kept positions, V vocabulary, B rows of a batch, L entries per row.
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from mctrace.base_model.layer_tape import LayerTape
from mctrace.base_model.masked_pass import EntryChanges
from mctrace.base_model.shared_attention import AttentionPlan, KeyValues


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


class EvaluatedModel(FrozenModel, Protocol):
    """A frozen model that can run a few entries on top of keys and values that were kept."""

    def token_nll(
        self, embeddings_BLd: Tensor, position_BL: Tensor, targets_H: Tensor, plans: Sequence[AttentionPlan]
    ) -> Tensor:
        """NLL [B, H] in nats, float32, of `targets_H` after the last H of each row's L entries.

        `plans` give what the rows attend to besides their own entries: one for all, or one per row.
        """
        ...

    def key_values(
        self,
        embeddings_BLd: Tensor,
        position_BL: Tensor,
        plans: Sequence[AttentionPlan],
        changes: EntryChanges | None = None,
    ) -> KeyValues:
        """Keys and values [B, k, L, e] of every layer for the rows' entries; `plans` as in `token_nll`."""
        ...

    def next_logits(self, embeddings_Ld: Tensor, position_L: Tensor, plan: AttentionPlan) -> Tensor:
        """Logits [V] of the token after the last of L entries, in float32; `plan` as in `token_nll`."""
        ...

    def taped_pass(self, embeddings_Nd: Tensor, position_N: Tensor, targets_H: Tensor) -> LayerTape:
        """A pass of a context that reads `targets_H` after its last H entries, kept for its gradients."""
        ...
