"""`torch.export` of a LensNet: a graph of tensors, for runtimes without Python.

Shapes: B snapshots, N entries, G tail gists, d embedding width.
"""

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from mctrace.context.tree import Absence
from mctrace.context.word_matches import NUM_WORD_MATCHES
from mctrace.datasets.batches.context_tensors import no_labels
from mctrace.datasets.batches.padded_batch import NUM_TAIL_GISTS, Batch
from mctrace.train.inference import mask_illegal
from mctrace.train.networks.focus import Focus, Scores, signed_scores
from mctrace.train.networks.lensnet import LensNet

INPUTS = (
    "context_embeddings", "tail_gists", "tail_mask", "entry_mask", "levels", "span_width",
    "distance_to_cursor", "context_tokens",
)  # fmt: skip
"""names of the exported graph's inputs, in order: fields of `Batch`, of the same shapes and dtypes"""

PRICE_INPUTS = ("can_expand", "can_collapse", "room")
"""further inputs of a network with a price: fields of `Batch`, and the positions [B] float32 by which each
context may grow"""

DROP_INPUT = "can_drop"
"""the last input of a network with a price where blocks may be absent: a field of `Batch`"""

WORD_INPUT = "word_matches"
"""input, by name, of a network that matches words: a field of `Batch`, float32"""

_EXAMPLE_ROWS, _EXAMPLE_ENTRIES = 2, 48


class TensorLensNet(nn.Module):
    """A network over tensors instead of a `Batch`.

    Gives masked signed scores [B, N] or values of detail; with a price, scores and the price [B] of a
    position.
    """

    def __init__(
        self,
        network: LensNet,
        block_size: int,
        max_level: int,
        *,
        signed: bool,
        absence: Absence = "off",
        gist_positions: int = 1,
    ) -> None:
        super().__init__()
        self.network = network
        self.block_size = block_size
        self.max_level = max_level
        self.signed = signed
        self.absence = absence
        self.gist_positions = gist_positions

    def forward(
        self,
        context_embeddings: Tensor,
        tail_gists: Tensor,
        tail_mask: Tensor,
        entry_mask: Tensor,
        levels: Tensor,
        span_width: Tensor,
        distance_to_cursor: Tensor,
        context_tokens: Tensor,
        can_expand: Tensor | None = None,
        can_collapse: Tensor | None = None,
        room: Tensor | None = None,
        can_drop: Tensor | None = None,
        word_matches: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        batch = Batch(
            context_embeddings=context_embeddings,
            tail_gists=tail_gists,
            tail_mask=tail_mask,
            entry_mask=entry_mask,
            levels=levels,
            span_width=span_width,
            distance_to_cursor=distance_to_cursor,
            context_tokens=context_tokens,
            can_expand=entry_mask if can_expand is None else can_expand,
            can_collapse=entry_mask if can_collapse is None else can_collapse,
            **no_labels(1, 1),  # networks read no labels
            block_size=self.block_size,
            max_level=self.max_level,
            snapshot_ids=(),
            document_ids=(),
            absence=self.absence,
            gist_positions=self.gist_positions,
            can_drop=can_drop,
            word_matches=word_matches,
        )
        scores: Scores = self.network(batch, None if room is None else room[:, None])
        if isinstance(scores, Focus):
            return signed_scores(scores, batch), scores.price_BR[:, 0]
        return mask_illegal(scores, batch) if self.signed else scores


def export_lensnet(
    network: LensNet,
    block_size: int,
    max_level: int,
    *,
    signed: bool,
    absence: Absence = "off",
    gist_positions: int = 1,
) -> ExportedProgram:
    """The network in evaluation mode as an exported program for any B >= 1 and N >= 2.

    `program.module()(*inputs)` equals `inference.score`; `torch.export.save(program, file)` writes it.
    `signed`, `absence` and `gist_positions` are the checkpoint's: values of detail are returned as they are,
    for the runtime to price. A network with a price takes `PRICE_INPUTS` too, and `DROP_INPUT` where blocks
    may be absent, and returns (signed scores, price). One that matches words takes `WORD_INPUT` by name:
    `program.module()(*inputs, word_matches=…)`.
    """
    wrapped = TensorLensNet(
        network.eval(), block_size, max_level,
        signed=signed, absence=absence, gist_positions=gist_positions,
    )  # fmt: skip
    rows, entries = Dim("rows", min=1), Dim("entries", min=2)
    by_entry = {0: rows, 1: entries}
    shapes = dict.fromkeys(INPUTS, by_entry) | {
        "tail_gists": {0: rows}, "tail_mask": {0: rows}, "context_tokens": {0: rows},
    }  # fmt: skip
    has_price = network.price_head is not None
    if has_price:
        shapes |= {"can_expand": by_entry, "can_collapse": by_entry, "room": {0: rows}}
        if absence != "off":
            shapes |= {DROP_INPUT: by_entry}
    by_name = {}
    if network.match_words:
        shapes |= {WORD_INPUT: by_entry}
        by_name = {WORD_INPUT: torch.zeros(_EXAMPLE_ROWS, _EXAMPLE_ENTRIES, NUM_WORD_MATCHES)}
    example = _example(network.embedding_dim, has_price=has_price, can_drop=absence != "off")
    return torch.export.export(wrapped, example, by_name, dynamic_shapes=shapes)


def _example(embedding_dim: int, *, has_price: bool, can_drop: bool) -> tuple[Tensor, ...]:
    by_entry = (_EXAMPLE_ROWS, _EXAMPLE_ENTRIES)
    by_gist = (_EXAMPLE_ROWS, NUM_TAIL_GISTS)
    legal = torch.ones(by_entry, dtype=torch.bool)
    of_price = (legal, legal.clone(), torch.zeros(_EXAMPLE_ROWS)) if has_price else ()
    of_drops = (legal.clone(),) if has_price and can_drop else ()
    return (
        torch.zeros(*by_entry, embedding_dim),
        torch.zeros(*by_gist, embedding_dim),
        torch.ones(by_gist, dtype=torch.bool),
        torch.ones(by_entry, dtype=torch.bool),
        torch.zeros(by_entry, dtype=torch.int64),
        torch.ones(by_entry, dtype=torch.int64),
        torch.zeros(by_entry, dtype=torch.int64),
        torch.ones(_EXAMPLE_ROWS, dtype=torch.int64),
        *of_price,
        *of_drops,
    )
