"""`torch.export` of a LensNet: a graph of tensors, for runtimes without Python.

Shapes: B snapshots, N entries, G tail gists, d embedding width.
"""

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from mctrace.context.tree import Absence
from mctrace.datasets.batches.context_tensors import no_labels
from mctrace.datasets.batches.padded_batch import NUM_TAIL_GISTS, Batch
from mctrace.train.inference import mask_illegal
from mctrace.train.networks.lensnet import LensNet

INPUTS = (
    "context_embeddings", "tail_gists", "tail_mask", "entry_mask", "levels", "span_width",
    "distance_to_cursor", "context_tokens",
)  # fmt: skip
"""names of the exported graph's inputs, in order: fields of `Batch`, of the same shapes and dtypes"""

_EXAMPLE_ROWS, _EXAMPLE_ENTRIES = 2, 48


class TensorLensNet(nn.Module):
    """A network over tensors instead of a `Batch`; gives masked signed scores [B, N] or values of detail."""

    def __init__(
        self, network: LensNet, block_size: int, max_level: int, *, signed: bool, absence: Absence = "off"
    ) -> None:
        super().__init__()
        self.network = network
        self.block_size = block_size
        self.max_level = max_level
        self.signed = signed
        self.absence = absence

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
    ) -> Tensor:
        batch = Batch(
            context_embeddings=context_embeddings,
            tail_gists=tail_gists,
            tail_mask=tail_mask,
            entry_mask=entry_mask,
            levels=levels,
            span_width=span_width,
            distance_to_cursor=distance_to_cursor,
            context_tokens=context_tokens,
            **no_labels(1, 1),  # networks read no labels
            block_size=self.block_size,
            max_level=self.max_level,
            snapshot_ids=(),
            document_ids=(),
            absence=self.absence,
        )
        scores_BN: Tensor = self.network(batch)
        return mask_illegal(scores_BN, batch) if self.signed else scores_BN


def export_lensnet(
    network: LensNet, block_size: int, max_level: int, *, signed: bool, absence: Absence = "off"
) -> ExportedProgram:
    """The network in evaluation mode as an exported program for any B >= 1 and N >= 2.

    `program.module()(*inputs)` equals `inference.score`; `torch.export.save(program, file)` writes it.
    `signed` and `absence` are the checkpoint's: values of detail are returned as they are, for the runtime to
    price.
    """
    wrapped = TensorLensNet(network.eval(), block_size, max_level, signed=signed, absence=absence)
    rows, entries = Dim("rows", min=1), Dim("entries", min=2)
    by_entry = {0: rows, 1: entries}
    shapes = dict.fromkeys(INPUTS, by_entry) | {
        "tail_gists": {0: rows}, "tail_mask": {0: rows}, "context_tokens": {0: rows},
    }  # fmt: skip
    return torch.export.export(wrapped, _example(network.embedding_dim), dynamic_shapes=shapes)


def _example(embedding_dim: int) -> tuple[Tensor, ...]:
    by_entry = (_EXAMPLE_ROWS, _EXAMPLE_ENTRIES)
    by_gist = (_EXAMPLE_ROWS, NUM_TAIL_GISTS)
    return (
        torch.zeros(*by_entry, embedding_dim),
        torch.zeros(*by_gist, embedding_dim),
        torch.ones(by_gist, dtype=torch.bool),
        torch.ones(by_entry, dtype=torch.bool),
        torch.zeros(by_entry, dtype=torch.int64),
        torch.ones(by_entry, dtype=torch.int64),
        torch.zeros(by_entry, dtype=torch.int64),
        torch.ones(_EXAMPLE_ROWS, dtype=torch.int64),
    )
