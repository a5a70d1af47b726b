"""What one training step looks at: windows of documents, and the patterns of gists each is seen in.

Every step's windows are drawn from its own number and the seed, so that they depend neither on what was drawn
before nor on where a run was taken up again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mctrace.context.lod_map import LODMap
from mctrace.context.tree import TreeShape
from mctrace.errors import InputError
from mctrace.gists.config import GistTrainConfig
from mctrace.gists.training.collapsed_maps import with_gists
from mctrace.seeding import generator_for

IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True)
class TrainingWindow:
    """Token ids [T] of a stretch of a document, and the LOD maps over it that are held to its full text.

    Losses are read from `first_scored` (a token of the window) on, behind the first gist at the earliest.
    """

    tokens_T: Tensor
    patterns: tuple[LODMap, ...]
    first_scored: int = 0


def training_windows(
    documents: Sequence[IntArray], tree: TreeShape, config: GistTrainConfig, *, first_step: int = 1
) -> Iterator[list[TrainingWindow]]:
    """The windows of step `first_step`, of the next, and so on without end.

    A document is drawn as often as its number of tokens. Raises InputError when none is long enough.
    """
    lengths = np.array([len(document) for document in documents], dtype=np.float64)
    shortest = config.objective.shortest_window(tree)
    usable = lengths >= shortest
    if not usable.any():
        raise InputError(
            f"no training document has at least {shortest} tokens, what the shortest window takes"
        )
    odds = np.where(usable, lengths, 0.0) / lengths[usable].sum()
    for step in count(first_step):
        windows = []
        for number in range(config.windows_per_step):
            chance = generator_for("gist window", config.seed, step, number)
            document = documents[int(chance.choice(len(documents), p=odds))]
            windows.append(draw_window(document, tree, config, step, chance))
        yield windows


def validation_windows(
    documents: Sequence[IntArray], tree: TreeShape, config: GistTrainConfig
) -> list[TrainingWindow]:
    """The same windows at every validation, from documents in turn, as the end of the curriculum has them.

    Raises InputError when no document is long enough.
    """
    shortest = config.objective.shortest_window(tree)
    usable = [document for document in documents if len(document) >= shortest]
    if not usable:
        raise InputError(
            f"no validation document has at least {shortest} tokens, what the shortest window takes"
        )
    step = config.objective.curriculum_steps
    return [
        draw_window(
            usable[number % len(usable)],
            tree,
            config,
            step,
            generator_for("gist validation", config.seed, number),
        )
        for number in range(config.num_validation_windows)
    ]


def draw_window(
    document: IntArray, tree: TreeShape, config: GistTrainConfig, step: int, chance: np.random.Generator
) -> TrainingWindow:
    """One window of `document` as the curriculum has it at `step`, with its patterns."""
    objective = config.objective
    progress = min(1.0, step / objective.curriculum_steps) if objective.curriculum_steps else 1.0
    is_near = chance.random() < objective.near_share
    tail = 0 if is_near else objective.protected_tail + objective.scored_tokens
    coarse_length = tree.span_width(2) + max(tail, objective.scored_tokens)
    is_coarse = tree.max_level > 1 and progress == 1 and chance.random() < objective.coarse_share
    is_coarse = is_coarse and len(document) >= coarse_length
    length = round(objective.window_tokens * (0.5 + 0.5 * progress))
    length = coarse_length if is_coarse else max(length, objective.shortest_window(tree))
    length = min(length, len(document)) // tree.block_size * tree.block_size
    first = int(chance.integers((len(document) - length) // tree.block_size + 1)) * tree.block_size
    tokens_T = torch.from_numpy(document[first : first + length].astype(np.int64))
    largest = objective.max_replaced * (1 + 2 * progress) / 3
    share = chance.uniform(min(objective.min_replaced, largest), largest)
    # Where every token counts, the newest block stays: something must be left to score.
    num_replaceable = (length - tail) // tree.block_size - (1 if is_near else 0)
    patterns = _patterns(tree, length, num_replaceable, share, is_coarse, config, chance)
    return TrainingWindow(tokens_T, patterns, 0 if is_near else length - objective.scored_tokens)


def _patterns(
    tree: TreeShape,
    length: int,
    num_replaceable: int,
    share: float,
    is_coarse: bool,
    config: GistTrainConfig,
    chance: np.random.Generator,
) -> tuple[LODMap, ...]:
    """One map a student: the second with half the share of the first, the third with a third, and so on.

    Blocks drawn anywhere are others for each, as far as they go round.
    """
    first_block = tree.blocks_per_node(2) if is_coarse else 0
    num_blocks = num_replaceable - first_block
    is_oldest = chance.random() < config.objective.oldest_share
    order = np.arange(num_blocks) if is_oldest else chance.permutation(num_blocks)
    maps = []
    for student in range(config.students_per_window):
        num_chosen = min(max(1, round(share * num_blocks / (student + 1))), num_blocks)
        if is_coarse and student == 0:
            num_chosen = 0  # the level-2 gist alone
        chosen = order[:num_chosen] if is_oldest else order[len(order) - num_chosen :]
        order = order if is_oldest else np.roll(order, num_chosen)
        lod_map = with_gists(tree, length, 1, np.sort(chosen) + first_block)
        maps.append(lod_map.with_level(slice(0, first_block), 2) if is_coarse else lod_map)
    return tuple(maps)
