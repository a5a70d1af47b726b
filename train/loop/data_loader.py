"""Data loader of a training run: order of the examples, split into parts and workers, prefetching.

The examples of a step depend only on the seed and the step's number. A run that resumes at step n therefore
reads none of the earlier batches, and any number of workers share the same batches.
"""

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from mctrace.context.tree import Absence
from mctrace.datasets.batches.collate import make_batch, ordered_batches, shuffled_order
from mctrace.datasets.batches.collate_pairs import make_pair_batch
from mctrace.datasets.batches.context_tensors import bucketed_length, exact_length
from mctrace.datasets.batches.label_reader import TrainingData
from mctrace.datasets.batches.pair_reader import PreferenceData, all_moves
from mctrace.train.config import TrainConfig
from mctrace.train.data_parallel import ProcessGroup
from mctrace.train.objectives.config import PreferenceConfig
from mctrace.train.objectives.lensnet_gradients import Examples
from mctrace.train.objectives.preference_state import PreferenceState

T = TypeVar("T")
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TrainingSource:
    """The data an objective is trained on: labels, preference pairs, or both."""

    labels: TrainingData | None
    pairs: PreferenceData | None
    match_words: bool = False
    """whether batches have word matches"""

    @property
    def absence(self) -> Absence:
        """`tree.absence` of the data."""
        data = self.labels or self.pairs
        assert data is not None, "an objective learns from labels, from pairs or from both"
        return data.absence

    def steps(self, config: TrainConfig, workers: ProcessGroup, done: int = 0) -> Iterator[list[Examples]]:
        """This worker's parts of the batch of each step after the first `done`; endless."""
        seed, size = config.seed, config.batch_size
        length_rule = bucketed_length if config.compile else exact_length
        labels = self.labels.snapshots("train") if self.labels else ()
        pairs = self.pairs.comparisons("train") if self.pairs else ()
        of_labels = endless_order(len(labels), size, "train", seed, done)
        of_pairs = endless_order(len(pairs), size, "train pairs", seed, done)
        while True:
            label_parts = [
                make_batch(self.labels, [labels[i] for i in part], length_rule, match_words=self.match_words)
                for part in _share(of_labels, config.accumulation, workers)
                if self.labels is not None
            ]
            pair_parts = [
                make_pair_batch(
                    self.pairs, [pairs[i] for i in part], length_rule, match_words=self.match_words
                )
                for part in _share(of_pairs, config.accumulation, workers)
                if self.pairs is not None
            ]
            yield [Examples(one, other) for one, other in zip_longest(label_parts, pair_parts)]

    def evaluation_state(self, split: str, objective: PreferenceConfig) -> PreferenceState:
        """Preference state to evaluate a split with: the split's own advantages, the same at every step."""
        state = PreferenceState(objective)
        if self.pairs is not None:
            self.pairs.comparisons(split)  # an unknown or empty one is refused
            rows = self.pairs.rows[split]
            state.set_advantages(rows.adv_mean, rows.adv_variance)
        return state

    def validation(self, split: str, batch_size: int) -> Iterator[Examples]:
        """All examples of a split once: its labels, then, group by group, all moves between variants."""
        if self.labels is not None:
            for batch in ordered_batches(self.labels, split, batch_size, match_words=self.match_words):
                yield Examples(labels=batch)
        if self.pairs is not None:
            for moves in all_moves(self.pairs, split):
                yield Examples(pairs=make_pair_batch(self.pairs, moves, match_words=self.match_words))


def endless_order(num_items: int, batch_size: int, name: str, seed: int, done: int) -> Iterator[IntArray]:
    """Item indices of each step after the first `done`; every epoch is shuffled anew.

    Yields empty arrays when there are no items.
    """
    if not num_items:
        while True:
            yield np.zeros(0, dtype=np.int64)
    steps_per_epoch = -(-num_items // batch_size)
    epoch, skipped = divmod(done, steps_per_epoch)
    while True:
        yield from shuffled_order(num_items, batch_size, split=name, seed=seed, epoch=epoch)[skipped:]
        epoch, skipped = epoch + 1, 0


def _share(order: Iterator[IntArray], num_parts: int, workers: ProcessGroup) -> list[IntArray]:
    """This worker's items of the next batch, in at most `num_parts` non-empty parts."""
    mine = next(order)[workers.rank :: workers.size]
    return [part for part in np.array_split(mine, num_parts) if len(part)]


@contextmanager
def prefetch(items: Iterator[T], depth: int = 2) -> Iterator[Iterator[T]]:
    """Iterate `items` in a thread that runs up to `depth` items ahead; its exceptions are raised here."""
    ready: queue.Queue[T | BaseException | _End] = queue.Queue(depth)
    stopped = threading.Event()

    def work() -> None:
        try:
            for item in items:
                if not _put(ready, item, stopped):
                    return
            _put(ready, _End(), stopped)
        except BaseException as error:
            _put(ready, error, stopped)

    def consume() -> Iterator[T]:
        while True:
            item = ready.get()
            if isinstance(item, _End):
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        yield consume()
    finally:
        stopped.set()
        thread.join()


class _End:
    """Marks the end of the items."""


def _put(ready: "queue.Queue[T]", item: T, stopped: threading.Event) -> bool:
    while not stopped.is_set():
        try:
            ready.put(item, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False
