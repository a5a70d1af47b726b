"""A quick start for the picks: a block's rarest tokens, learned from the training documents alone.

A sum of a block's rarest token embeddings is read by a base model about as well as nothing in the block's
place, a mean of all of them far worse; and from the mean, training first finds a constant that is ignored,
which drowns whatever is added to it. So training starts from picks that already say something.

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
"""Blocks over which is measured what all have in common."""
IntArray = npt.NDArray[np.int32]


def pretrain_picks(
    gistnet: TransformerGistNet,
    model: FrozenModel,
    documents: Sequence[IntArray],
    config: RarityConfig,
    seed: int,
) -> Iterator[Step]:
    """Trains every level's picks, the first on the rarest token, the next on the next rarest, and so on."""
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
    """In how many documents each token id occurs [largest id + 1]."""
    size = max(int(document.max()) for document in documents) + 1
    counts = np.zeros(size, dtype=np.int64)
    for document in documents:
        counts[np.unique(document)] += 1
    return torch.from_numpy(counts)


def rarest(tokens_MK: Tensor, frequency_V: Tensor, num_picks: int) -> Tensor:
    """Where in each block its rarest tokens are [M, p], the rarest first; of equals, the earlier one.

    A token that comes again in the block counts where it comes first. Blocks with fewer different tokens than
    picks give repeated tokens to the rest.
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
    """Random aligned blocks [M, K] without end."""
    cut = [d[: len(d) // block_size * block_size].reshape(-1, block_size) for d in documents]
    blocks = np.concatenate(cut).astype(np.int64)
    chance = generator_for("gist rarity", seed)
    while True:
        yield torch.from_numpy(blocks[chance.integers(len(blocks), size=blocks_per_step)])
