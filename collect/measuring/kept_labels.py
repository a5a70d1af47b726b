"""Labels of a context whose entries stay as they were read: the semantics of key-value caches.

A document's tokens are read once, in full. An edit then decides what later tokens see of them, and changes
nothing that was read: no entry runs again, and the loss of the token at the cursor, which was predicted
before the edit, stays. So an exact label runs the horizon alone, whatever the context's length:

    delta_nll[t] = nll_t(seen after the edit) - nll_t(seen before)        for t in (cursor, cursor + H)

Never to be mixed with the labels of `evaluator.py`, which runs every entry behind an edit again (re-encoded).
A span that gives way is seen through its anchors (`gists/network/anchored_spans.py`), and the first token
always.

Shapes: T tokens, H tokens of the horizon, N entries that are seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mctrace.base_model.protocol import EvaluatedModel
from mctrace.base_model.shared_attention import AttentionPlan, KeyValues, SharedSegment
from mctrace.gists.network.anchored_spans import Span, kept_tokens


@dataclass(frozen=True)
class ReadText:
    """A document up to a cursor, as the model read it in full, and the tokens that follow.

    The model must attend to everything (`base_model/masked_pass.py` checks that): a local window counts
    entries, and would count without those that are hidden.
    """

    model: EvaluatedModel
    tokens_T: Tensor
    cursor: int
    cache: KeyValues


@torch.inference_mode()
def read_in_full(model: EvaluatedModel, tokens_T: Tensor, cursor: int) -> ReadText:
    """Read the tokens before `cursor`, of which there is at least one, and keep their keys and values."""
    record = KeyValues()
    embeddings_1Td = model.embed(tokens_T[:cursor])[None]
    position_1T = torch.arange(cursor, device=embeddings_1Td.device)[None]
    model.token_nll(
        embeddings_1Td, position_1T, tokens_T[cursor : cursor + 1], [AttentionPlan(record=record)]
    )
    return ReadText(model, tokens_T, cursor, record)


@torch.inference_mode()
def kept_nll(read: ReadText, spans: Sequence[Span], horizon: int) -> Tensor:
    """NLL [H - 1] in nats of the tokens after the one at the cursor, which sees `spans` by their anchors."""
    first, end = read.cursor, read.cursor + horizon - 1
    embeddings_1Ld = read.model.embed(read.tokens_T[first:end])[None]
    device = embeddings_1Ld.device
    seen_N = torch.from_numpy(kept_tokens(spans, read.cursor)).to(device)
    seen = KeyValues(
        {
            layer: (keys.index_select(2, seen_N), values.index_select(2, seen_N))
            for layer, (keys, values) in read.cache.layers.items()
        }
    )
    num_seen = len(seen_N)
    plan = AttentionPlan(seen, prefix=SharedSegment(0, num_seen, 0), own_index=num_seen, later_index=num_seen)
    position_1L = torch.arange(first, end, device=device)[None]
    nll_1H = read.model.token_nll(embeddings_1Ld, position_1L, read.tokens_T[first + 1 : end + 1], [plan])
    return nll_1H[0]


def kept_delta_nll(read: ReadText, before: Sequence[Span], after: Sequence[Span], horizon: int) -> Tensor:
    """What an edit changes, [H - 1] in nats per token: the spans `before` it become those `after` it."""
    return kept_nll(read, after, horizon) - kept_nll(read, before, horizon)
