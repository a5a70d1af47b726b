"""The batches of a training run: which snapshots each step sees, in which parts, read ahead of their use.

What a step sees follows from the seed and its number alone, so that a run which goes on at step n reads
nothing of what came before, and any number of workers share the same batches out among themselves.
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

from mctrace.datasets.batches.collate import make_batch, ordered_batches, shuffled_order
from mctrace.datasets.batches.labels import TrainingData
from mctrace.datasets.batches.pairs import PreferenceData, all_moves, make_pair_batch
from mctrace.train.config import TrainConfig
from mctrace.train.distribution import Workers
from mctrace.train.objectives.config import PreferenceConfig
from mctrace.train.objectives.gradients import Examples
from mctrace.train.objectives.preference_state import PreferenceState

T = TypeVar("T")
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Source:
    """What an objective learns from: labels, pairs, or both."""

    labels: TrainingData | None
    pairs: PreferenceData | None

    def steps(self, config: TrainConfig, workers: Workers, done: int = 0) -> Iterator[list[Examples]]:
        """This worker's parts of the batch of each step after the first `done`, without end."""
        seed, size = config.seed, config.batch_size
        labels = self.labels.snapshots("train") if self.labels else ()
        pairs = self.pairs.comparisons("train") if self.pairs else ()
        of_labels = endless_order(len(labels), size, "train", seed, done)
        of_pairs = endless_order(len(pairs), size, "train pairs", seed, done)
        while True:
            label_parts = [
                make_batch(self.labels, [labels[i] for i in part])
                for part in _share(of_labels, config.accumulation, workers)
                if self.labels is not None
            ]
            pair_parts = [
                make_pair_batch(self.pairs, [pairs[i] for i in part])
                for part in _share(of_pairs, config.accumulation, workers)
                if self.pairs is not None
            ]
            yield [Examples(one, other) for one, other in zip_longest(label_parts, pair_parts)]

    def judging_state(self, split: str, objective: PreferenceConfig) -> PreferenceState:
        """What to judge a split's pairs by: its own advantages, so that losses of different steps compare."""
        state = PreferenceState(objective)
        if self.pairs is not None:
            found = {
                variant.snapshot_id: variant.adv_delta
                for comparison in self.pairs.comparisons(split)
                for variant in (comparison.variant, *comparison.others)
            }
            state.observe_advantages(list(found.values()))
        return state

    def validation(self, split: str, batch_size: int) -> Iterator[Examples]:
        """Everything of a split once: its labels, then group by group all moves between variants."""
        if self.labels is not None:
            for batch in ordered_batches(self.labels, split, batch_size):
                yield Examples(labels=batch)
        if self.pairs is not None:
            for moves in all_moves(self.pairs, split):
                yield Examples(pairs=make_pair_batch(self.pairs, moves))


def endless_order(num_items: int, batch_size: int, name: str, seed: int, done: int) -> Iterator[IntArray]:
    """Which items each step after the first `done` sees: epoch after epoch, each in an order of its own.

    Without items every step sees none.
    """
    if not num_items:
        while True:
            yield np.zeros(0, dtype=np.int64)
    steps_per_epoch = -(-num_items // batch_size)
    epoch, skipped = divmod(done, steps_per_epoch)
    while True:
        yield from shuffled_order(num_items, batch_size, split=name, seed=seed, epoch=epoch)[skipped:]
        epoch, skipped = epoch + 1, 0


def _share(order: Iterator[IntArray], num_parts: int, workers: Workers) -> list[IntArray]:
    """One worker's items of the next batch, in at most `num_parts` parts, none of them empty."""
    mine = next(order)[workers.rank :: workers.size]
    return [part for part in np.array_split(mine, num_parts) if len(part)]


@contextmanager
def read_ahead(items: Iterator[T], depth: int = 2) -> Iterator[Iterator[T]]:
    """The same items, made by a thread that is up to `depth` of them ahead; its errors come out here."""
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

    def follow() -> Iterator[T]:
        while True:
            item = ready.get()
            if isinstance(item, _End):
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    thread = threading.Thread(target=work, name="read-ahead", daemon=True)
    thread.start()
    try:
        yield follow()
    finally:
        stopped.set()
        thread.join()


class _End:
    """Stands for the end of the items."""


def _put(ready: "queue.Queue[T]", item: T, stopped: threading.Event) -> bool:
    while not stopped.is_set():
        try:
            ready.put(item, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False
