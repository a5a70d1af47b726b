"""Pretraining of a GistNet's picks: they learn to select the rarest tokens of a block.

Replacing a block by the sum of its rarest token embeddings costs about as much loss as deleting it, by the
mean of all of them far more. Started from the mean, training first converges to a constant gist that the
model ignores and that hides any signal added to it. So training starts from picks that carry information.

Shapes: M blocks, K tokens per block, p picks, V vocabulary.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from mctrace.base_model.protocol import FrozenModel
from mctrace.gists.config import RarityConfig
from mctrace.gists.network.transformer_gistnet import TransformerGistNet
from mctrace.seeding import generator_for
from mctrace.train.config import OptimiserConfig
from mctrace.train.loop.optimisation_steps import Step, gradients_of, optimisation_steps

_CALIBRATION_BLOCKS = 512
"""number of blocks for `calibrate`"""
IntArray = npt.NDArray[np.int32]


def pretrain_picks(
    gistnet: TransformerGistNet,
    model: FrozenModel,
    documents: Sequence[IntArray],
    config: RarityConfig,
    seed: int,
) -> Iterator[Step]:
    """Train the picks of every level: the first on the rarest token, the next on the next rarest, ..."""
    frequency = document_frequency(documents)
    block_size, num_picks = gistnet.config.block_size, gistnet.config.num_picks

    def loss_fn(tokens_MK: Tensor) -> tuple[Tensor, Mapping[str, float]]:
        children_MKd = model.embed(tokens_MK.flatten()).clone().float().view(*tokens_MK.shape, -1)
        target_Mp = rarest(tokens_MK, frequency, num_picks).to(children_MKd.device)
        losses = [
            functional.cross_entropy(logits_MKp, target_Mp)
            for logits_MKp in gistnet.pick_logits(children_MKd)
        ]
        loss = torch.stack(losses).mean()
        return loss, {"loss": loss.item()}

    for pooler in gistnet.poolers:
        nn.init.constant_(pooler.get_parameter("gain"), config.gain)
    optimiser = OptimiserConfig(
        learning_rate=config.learning_rate,
        warmup_steps=min(10, config.num_steps),
        total_steps=config.num_steps,
    )
    blocks = _blocks(documents, block_size, config.blocks_per_step, seed)
    yield from optimisation_steps(gistnet, blocks, gradients_of(loss_fn), optimiser)
    sample_MK = next(_blocks(documents, block_size, _CALIBRATION_BLOCKS, seed + 1))
    gistnet.calibrate(model.embed(sample_MK.flatten()).clone().float().view(*sample_MK.shape, -1))


def document_frequency(documents: Sequence[IntArray]) -> Tensor:
    """Number of documents in which each token id occurs [largest id + 1]."""
    size = max(int(document.max()) for document in documents) + 1
    counts = np.zeros(size, dtype=np.int64)
    for document in documents:
        counts[np.unique(document)] += 1
    return torch.from_numpy(counts)


def rarest(tokens_MK: Tensor, frequency_V: Tensor, num_picks: int) -> Tensor:
    """Positions of the rarest tokens of each block [M, p], rarest first, the earlier of equals first.

    A repeated token counts at its first position; blocks with fewer distinct tokens than picks fill up with
    repeated ones.
    """
    block_size = tokens_MK.shape[1]
    known = tokens_MK.clamp(max=len(frequency_V) - 1)
    rarity_MK = torch.where(tokens_MK < len(frequency_V), frequency_V[known], 0).double()
    is_again = (tokens_MK[:, :, None] == tokens_MK[:, None, :]).tril(-1).any(dim=-1)
    order_MK = rarity_MK + torch.arange(block_size) / (2 * block_size) + is_again * float(2**40)
    return order_MK.argsort(dim=1)[:, :num_picks]


def _blocks(
    documents: Sequence[IntArray], block_size: int, blocks_per_step: int, seed: int
) -> Iterator[Tensor]:
    """Endless random aligned blocks [M, K] of token ids."""
    cut = [d[: len(d) // block_size * block_size].reshape(-1, block_size) for d in documents]
    blocks = np.concatenate(cut).astype(np.int64)
    generator = generator_for("gist rarity", seed)
    while True:
        yield torch.from_numpy(blocks[generator.integers(len(blocks), size=blocks_per_step)])
