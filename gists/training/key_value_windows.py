"""Training windows of key-value gists: a section of a document, the spans that give way, and their copies.

A window ends with copies of some of its collapsed blocks, a recall test that ordinary text seldom sets. The
windows of a step depend on its number and the seed alone, so a resumed run sees the same ones.
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
from mctrace.gists.config import KeyValueTrainConfig
from mctrace.gists.training.collapsed_maps import with_gists
from mctrace.seeding import generator_for

IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True)
class KeyValueWindow:
    """Token ids [T] of a section with copies at its end, and the map of the section's collapsed blocks.

    `num_anchors` has one number per collapsed block, in order.
    """

    tokens_T: Tensor
    lod_map: LODMap
    num_anchors: tuple[int, ...]
    num_copies: int

    @property
    def first_copy(self) -> int:
        """Place in the window of the first copied token."""
        return self.lod_map.cursor


def key_value_windows(
    documents: Sequence[IntArray], tree: TreeShape, config: KeyValueTrainConfig, *, first_step: int = 1
) -> Iterator[list[KeyValueWindow]]:
    """The windows of step `first_step` and all later ones; endless.

    Documents are drawn in proportion to their number of tokens. Raises InputError when none is long enough.
    """
    usable = _usable(documents, config, "training")
    lengths = np.array([len(document) for document in usable], dtype=np.float64)
    for step in count(first_step):
        windows = []
        for number in range(config.windows_of_step(step)):
            generator = generator_for("key-value window", config.seed, step, number)
            document = usable[int(generator.choice(len(usable), p=lengths / lengths.sum()))]
            windows.append(draw_key_value_window(document, tree, config, step, generator))
        yield windows


def key_value_validation_windows(
    documents: Sequence[IntArray], tree: TreeShape, config: KeyValueTrainConfig
) -> list[KeyValueWindow]:
    """The fixed windows of all validations, from documents in turn, as when the curriculum has ended, with
    the fewest anchors. Raises InputError when no document is long enough.
    """
    usable = _usable(documents, config, "validation")
    windows = []
    for number in range(config.num_validation_windows):
        generator = generator_for("key-value validation", config.seed, number)
        document = usable[number % len(usable)]
        window = draw_key_value_window(document, tree, config, config.curriculum_steps, generator)
        fewest = (min(config.anchors),) * len(window.num_anchors)
        windows.append(KeyValueWindow(window.tokens_T, window.lod_map, fewest, window.num_copies))
    return windows


def draw_key_value_window(
    document: IntArray,
    tree: TreeShape,
    config: KeyValueTrainConfig,
    step: int,
    generator: np.random.Generator,
) -> KeyValueWindow:
    """One window of `document` at the curriculum's `step`."""
    width = tree.block_size
    length = min(config.window_tokens_of_step(step), len(document)) // width * width
    first = int(generator.integers((len(document) - length) // width + 1)) * width
    section_T = document[first : first + length].astype(np.int64)
    num_blocks = length // width - 1  # something is left to read the last gist
    progress = min(1.0, step / config.curriculum_steps) if config.curriculum_steps else 1.0
    fewest = round(2 + progress * (config.min_replaced * num_blocks - 2))
    most = round(4 + progress * (config.max_replaced * num_blocks - 4))
    fewest, most = (min(max(1, number), num_blocks) for number in (fewest, most))
    num_chosen = int(generator.integers(fewest, max(fewest, most) + 1))
    chosen = np.sort(generator.permutation(num_blocks)[:num_chosen])
    copied = generator.permutation(chosen)[: config.num_copies]
    copies = [section_T[block * width : (block + 1) * width] for block in copied]
    return KeyValueWindow(
        torch.from_numpy(np.concatenate([section_T, *copies])),
        with_gists(tree, length, 1, chosen),
        tuple(int(number) for number in generator.choice(config.anchors, size=num_chosen)),
        len(copies),
    )


def _usable(documents: Sequence[IntArray], config: KeyValueTrainConfig, split: str) -> list[IntArray]:
    usable = [document for document in documents if len(document) >= config.window_tokens]
    if not usable:
        raise InputError(
            f"no {split} document has at least {config.window_tokens} tokens, the length of a window "
            "(key_value_train.window_tokens)"
        )
    return usable
