"""Random legal pairs of working contexts for tests of the preference objective."""

from dataclasses import replace

import torch

from mctrace.datasets.batches.context_tensors import no_labels
from mctrace.datasets.batches.padded_batch import Batch, PairBatch


def random_pairs(batch: Batch, seed: int = 0, pairs_per_context: int = 2) -> PairBatch:
    """Each context paired with several better ones, in which gists may be finer and tokens coarser."""
    generator = torch.Generator().manual_seed(seed)
    contexts = replace(batch, **no_labels(*batch.levels.shape))
    row = torch.arange(len(batch)).repeat_interleave(pairs_per_context)
    drawn = torch.randint(-1, 2, (len(row), batch.levels.shape[1]), generator=generator).float()
    levels, present = batch.levels[row], batch.entry_mask[row]
    direction = torch.where(levels == 0, drawn.clamp(max=0), drawn)
    direction = torch.where(levels == batch.max_level, direction.clamp(min=0), direction) * present
    from_adv_delta = 0.05 + 0.1 * torch.rand(len(row), generator=generator)
    to_adv_delta = from_adv_delta - 0.02 - 0.2 * torch.rand(len(row), generator=generator)
    evaluated: dict[str, dict[str, float]] = {}
    for pair, context in enumerate(row.tolist()):
        group = evaluated.setdefault(f"group-{context}", {})
        group |= {f"from-{pair}": float(from_adv_delta[pair]), f"to-{pair}": float(to_adv_delta[pair])}
    return PairBatch(
        contexts,
        row,
        direction,
        from_adv_delta=from_adv_delta,
        to_adv_delta=to_adv_delta,
        groups=tuple(f"group-{i}" for i in row.tolist()),
        evaluated=evaluated,
    )
