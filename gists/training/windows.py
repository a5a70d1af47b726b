"""Training windows: sections of documents, each with the LOD maps of its students.

The windows of a step depend on its number and the seed only, not on earlier draws or on where a run resumed.
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
    """Token ids [T] of a section of a document, and the LOD map of each student.

    Losses count from `first_scored` (a token of the window) on, and only after a map's first gist.
    """

    tokens_T: Tensor
    lod_maps: tuple[LODMap, ...]
    first_scored: int = 0


def training_windows(
    documents: Sequence[IntArray], tree: TreeShape, config: GistTrainConfig, *, first_step: int = 1
) -> Iterator[list[TrainingWindow]]:
    """The windows of step `first_step` and all later ones; endless.

    Documents are drawn in proportion to their number of tokens. Raises InputError when none is long enough.
    """
    lengths = np.array([len(document) for document in documents], dtype=np.float64)
    shortest = config.objective.shortest_window(tree)
    usable = lengths >= shortest
    if not usable.any():
        raise InputError(
            f"no training document has at least {shortest} tokens, the length of the shortest window"
        )
    odds = np.where(usable, lengths, 0.0) / lengths[usable].sum()
    for step in count(first_step):
        windows = []
        for number in range(config.windows_per_step):
            generator = generator_for("gist window", config.seed, step, number)
            document = documents[int(generator.choice(len(documents), p=odds))]
            windows.append(draw_window(document, tree, config, step, generator))
        yield windows


def validation_windows(
    documents: Sequence[IntArray], tree: TreeShape, config: GistTrainConfig
) -> list[TrainingWindow]:
    """The fixed windows of all validations, from documents in turn, as at the end of the curriculum.

    Raises InputError when no document is long enough.
    """
    shortest = config.objective.shortest_window(tree)
    usable = [document for document in documents if len(document) >= shortest]
    if not usable:
        raise InputError(
            f"no validation document has at least {shortest} tokens, the length of the shortest window"
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
    document: IntArray, tree: TreeShape, config: GistTrainConfig, step: int, generator: np.random.Generator
) -> TrainingWindow:
    """One window of `document` at the curriculum's `step`, with its students' maps."""
    objective = config.objective
    progress = min(1.0, step / objective.curriculum_steps) if objective.curriculum_steps else 1.0
    is_near = generator.random() < objective.near_share
    tail = 0 if is_near else objective.protected_tail + objective.scored_tokens
    coarse_length = tree.span_width(2) + max(tail, objective.scored_tokens)
    is_coarse = tree.max_level > 1 and progress == 1 and generator.random() < objective.coarse_share
    is_coarse = is_coarse and len(document) >= coarse_length
    length = round(objective.window_tokens * (0.5 + 0.5 * progress))
    length = coarse_length if is_coarse else max(length, objective.shortest_window(tree))
    length = min(length, len(document)) // tree.block_size * tree.block_size
    first = int(generator.integers((len(document) - length) // tree.block_size + 1)) * tree.block_size
    tokens_T = torch.from_numpy(document[first : first + length].astype(np.int64))
    largest = objective.max_replaced * (1 + 2 * progress) / 3
    share = generator.uniform(min(objective.min_replaced, largest), largest)
    # Where every token counts, the newest block is kept, so that something is left to score.
    num_replaceable = (length - tail) // tree.block_size - (1 if is_near else 0)
    lod_maps = _student_maps(tree, length, num_replaceable, share, is_coarse, config, generator)
    return TrainingWindow(tokens_T, lod_maps, 0 if is_near else length - objective.scored_tokens)


def _student_maps(
    tree: TreeShape,
    length: int,
    num_replaceable: int,
    share: float,
    is_coarse: bool,
    config: GistTrainConfig,
    generator: np.random.Generator,
) -> tuple[LODMap, ...]:
    """One map per student: the second replaces half the share of the first, the third a third, and so on.

    Random blocks differ between students as far as there are enough.
    """
    first_block = tree.blocks_per_node(2) if is_coarse else 0
    num_blocks = num_replaceable - first_block
    is_oldest = generator.random() < config.objective.oldest_share
    order = np.arange(num_blocks) if is_oldest else generator.permutation(num_blocks)
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
