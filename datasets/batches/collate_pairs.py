"""Assembly of padded batches from preference pairs.

A pair's direction says where the other map shows more detail than this one, and where less.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from mctrace.context.lod_map import LODMap
from mctrace.datasets.batches.context_tensors import (
    LengthRule,
    exact_length,
    padded,
    unlabelled_batch,
)
from mctrace.datasets.batches.padded_batch import PairBatch
from mctrace.datasets.batches.pair_files import Comparison, Variant
from mctrace.datasets.batches.pair_reader import PreferenceData


def make_pair_batch(
    data: PreferenceData,
    comparisons: Sequence[Comparison],
    length_rule: LengthRule = exact_length,
    *,
    match_words: bool = False,
) -> PairBatch:
    """Padded batch: a context per comparison, a move per variant it is compared with."""
    comparisons = list(comparisons)  # each is read once
    variants = [comparison.variant for comparison in comparisons]
    maps = [variant.lod_map for variant in variants]
    contexts = unlabelled_batch(
        [
            data.arrays.document(variant.document_id, variant.head.provenance).context(
                lod_map, variant.head.protected_tail
            )
            for lod_map, variant in zip(maps, variants, strict=True)
        ],
        [variant.snapshot_id for variant in variants],
        [variant.document_id for variant in variants],
        length_rule,
        match_words=match_words,
    )
    groups = {comparison.variant.group_id: comparison.group for comparison in comparisons}
    evaluated = {name: {one.snapshot_id: one.adv_delta for one in group} for name, group in groups.items()}

    def batch_of(moves: Sequence[tuple[int, Variant]], every_move: PairBatch | None) -> PairBatch:
        directions = [detail_direction(maps[row], other.lod_map) for row, other in moves]
        return PairBatch(
            contexts,
            row=torch.tensor([row for row, _ in moves]),
            direction=padded(directions, contexts.levels.shape[1], torch.float32),
            from_adv_delta=torch.tensor([variants[row].adv_delta for row, _ in moves]),
            to_adv_delta=torch.tensor([other.adv_delta for _, other in moves]),
            groups=tuple(other.group_id for _, other in moves),
            evaluated=evaluated,
            every_move=every_move,
        )

    learned = [(row, other) for row, comparison in enumerate(comparisons) for other in comparison.others]
    every = [
        (row, other)
        for row, variant in enumerate(variants)
        for other in groups[variant.group_id]
        if other.snapshot_id != variant.snapshot_id
    ]
    return batch_of(learned, batch_of(every, None))


def detail_direction(source: LODMap, other: LODMap) -> npt.NDArray[np.float64]:
    """Direction for each node [N] of `source`: 1 where `other` shows its span finer, -1 coarser, 0 alike.

    Whole nodes tile both maps, so `other` shows an entry's span within one coarser node, alike, or finer
    throughout: its first block decides. So no token is asked to expand, and no gist of the coarsest level to
    collapse.
    """
    same_window = (source.tree, source.start, source.cursor) == (other.tree, other.start, other.cursor)
    assert same_window, "variants of one group show one window"
    entries = source.nodes
    block_N = (entries.first_token_N - source.start) // source.tree.block_size
    return np.sign(entries.level_N - other.levels[block_N].astype(np.int64)).astype(np.float64)
