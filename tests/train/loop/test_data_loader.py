"""Data loader: examples of each step depend on seed and step alone, and workers share them completely."""

from dataclasses import replace

import pytest

from mctrace.context.word_matches import NUM_WORD_MATCHES
from mctrace.datasets.batches.label_reader import open_training_data
from mctrace.datasets.batches.pair_reader import open_preference_data
from mctrace.train.config import TrainConfig
from mctrace.train.data_parallel import ProcessGroup
from mctrace.train.loop.data_loader import TrainingSource, endless_order, prefetch
from mctrace.train.objectives.config import ObjectiveConfig
from tests.train.stores import learnable_store


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    store = learnable_store(tmp_path_factory.mktemp("reading") / "store", num_variants=2).at()
    return TrainingSource(
        open_training_data(store), open_preference_data(store, max_pairs=8, hard_negative_share=1.0)
    )


CONFIG = TrainConfig(batch_size=4, objective=ObjectiveConfig("mixed"))


def seen(source, config, workers, num_steps, done=0):
    """For each step, the ids of its labelled snapshots and of the contexts of its pairs."""
    steps = source.steps(config, workers, done)
    found = []
    for _ in range(num_steps):
        parts = next(steps)
        labels = [name for part in parts if part.labels for name in part.labels.snapshot_ids]
        pairs = [name for part in parts if part.pairs for name in part.pairs.contexts.snapshot_ids]
        found.append((labels, pairs))
    return found


def test_an_epoch_sees_everything_once_and_the_next_in_another_order(source):
    snapshots = [s.snapshot_id for s in source.labels.snapshots("train")]
    per_epoch = -(-len(snapshots) // 4)
    steps = seen(source, CONFIG, ProcessGroup(), 2 * per_epoch)
    first = [name for labels, _ in steps[:per_epoch] for name in labels]
    second = [name for labels, _ in steps[per_epoch:] for name in labels]
    assert sorted(first) == sorted(second) == sorted(snapshots)
    assert first != second


def test_starting_at_a_later_step_gives_the_same_batches(source):
    assert seen(source, CONFIG, ProcessGroup(), 3, done=7) == seen(source, CONFIG, ProcessGroup(), 10)[7:]


def test_workers_and_parts_divide_each_batch(source):
    whole = seen(source, CONFIG, ProcessGroup(), 6)
    shares = [seen(source, CONFIG, ProcessGroup(rank, 3), 6) for rank in range(3)]
    for step, (labels, pairs) in enumerate(whole):
        assert sorted(labels) == sorted(name for share in shares for name in share[step][0])
        assert sorted(pairs) == sorted(name for share in shares for name in share[step][1])
    in_parts = next(source.steps(TrainConfig(batch_size=4, accumulation=2), ProcessGroup()))
    assert [len(part.labels) for part in in_parts] == [2, 2]


def test_validation_sees_labels_once_and_every_move_between_variants_of_a_group(source):
    examples = list(source.validation("validation", batch_size=4))
    labels = [name for one in examples if one.labels for name in one.labels.snapshot_ids]
    assert labels == [s.snapshot_id for s in source.labels.snapshots("validation")]
    moves = [one.pairs for one in examples if one.pairs]
    assert all(len(set(one.groups)) == 1 and len(one) == 3 * 2 for one in moves)
    assert all((one.change > 0).sum() == (one.change < 0).sum() for one in moves)


def test_word_matches_come_with_labels_and_pairs_where_they_are_asked_for(source):
    assert all(part.labels.word_matches is None for part in next(source.steps(CONFIG, ProcessGroup())))
    matching = replace(source, match_words=True)
    parts = [*next(matching.steps(CONFIG, ProcessGroup())), *matching.validation("validation", 4)]
    batches = [one for part in parts for one in (part.labels, part.pairs and part.pairs.contexts) if one]
    assert len(batches) > 4
    for batch in batches:
        assert batch.word_matches.shape == (*batch.levels.shape, NUM_WORD_MATCHES)
        assert batch.word_matches.any()
        assert not batch.word_matches[~batch.entry_mask].any()


def test_endless_order_without_items_gives_empty_steps():
    assert [len(step) for step, _ in zip(endless_order(0, 4, "train", 0, 0), range(3), strict=False)] == [
        0
    ] * 3


def test_prefetching_gives_the_same_items_and_passes_errors_on():
    def items():
        yield from range(5)
        raise ValueError("the disk is gone")

    with prefetch(items()) as ahead:
        assert [next(ahead) for _ in range(5)] == list(range(5))
        with pytest.raises(ValueError, match="the disk is gone"):
            next(ahead)
    with prefetch(iter(range(3))) as ahead:
        assert list(ahead) == [0, 1, 2]


def test_prefetching_stops_with_its_consumer():
    produced = []

    def items():
        while True:
            produced.append(1)
            yield 1

    with prefetch(items(), depth=2) as ahead:
        next(ahead)
    assert len(produced) < 10
