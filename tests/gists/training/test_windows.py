"""The windows a step sees: seeded by the step alone, legal, and as the curriculum and the tail have them."""

from itertools import islice

import pytest
import torch

from mctrace.errors import InputError
from mctrace.gists.training.collapsed_maps import collapse_share
from mctrace.gists.training.windows import training_windows, validation_windows
from mctrace.seeding import generator_for
from tests.gists.tiny_models import TREE, document, tiny_config

DOCUMENTS = [document(200, seed) for seed in range(4)]


def steps(count: int, first_step: int = 1, **objective):
    config = tiny_config(**objective)
    return list(islice(training_windows(DOCUMENTS, TREE, config, first_step=first_step), count))


def test_a_steps_windows_depend_on_its_number_alone():
    for (ours,), (theirs,) in zip(
        [step[:1] for step in steps(6)[3:]], [step[:1] for step in steps(3, first_step=4)], strict=True
    ):
        assert torch.equal(ours.tokens_T, theirs.tokens_T)
        assert ours.lod_maps == theirs.lod_maps


def test_the_tail_and_the_scored_tokens_are_never_replaced():
    windows = [
        window for step in steps(30, first_step=5, coarse_share=0.5, near_share=0.0) for window in step
    ]
    levels = set()
    for window in windows:
        assert window.first_scored == len(window.tokens_T) - 16
        for lod_map in window.lod_maps:
            assert lod_map.cursor == len(window.tokens_T)
            assert not lod_map.levels[-5:].any()
            assert lod_map.levels.any()
            levels.add(int(lod_map.levels.max()))
    assert levels == {1, 2}


def test_a_near_window_scores_everything_after_the_first_gist():
    windows = [window for step in steps(20, first_step=5, near_share=1.0) for window in step]
    assert all(window.first_scored == 0 for window in windows)
    assert any(window.lod_maps[0].levels[-5:].any() for window in windows)
    assert not any(lod_map.levels[-1] for window in windows for lod_map in window.lod_maps)


def test_the_curriculum_goes_from_short_and_few_to_long_and_many():
    early = steps(1, curriculum_steps=100, min_replaced=0.0)[0]
    late = steps(40, first_step=100, curriculum_steps=100, min_replaced=0.0, coarse_share=0.0)
    assert max(len(window.tokens_T) for window in early) < 32
    assert {len(window.tokens_T) for step in late for window in step} == {48}
    shares = [window.lod_maps[0].levels[:7].mean() for step in late for window in step]
    assert max(shares) == 1


def test_students_of_a_window_have_different_maps():
    windows = [window for step in steps(20, first_step=5, coarse_share=0.0) for window in step]
    assert sum(window.lod_maps[0] != window.lod_maps[1] for window in windows) > 30


def test_validation_windows_are_fixed_and_take_documents_in_turn():
    once = validation_windows(DOCUMENTS, TREE, tiny_config())
    again = validation_windows(DOCUMENTS, TREE, tiny_config())
    assert len(once) == 6
    assert all(torch.equal(a.tokens_T, b.tokens_T) for a, b in zip(once, again, strict=True))


def test_documents_too_short_for_a_window_are_refused_with_the_required_length():
    with pytest.raises(InputError, match="no training document has at least 28 tokens"):
        next(training_windows([document(20)], TREE, tiny_config()))
    with pytest.raises(InputError, match="no validation document has at least 28 tokens"):
        validation_windows([document(20)], TREE, tiny_config())


@pytest.mark.parametrize(("placement", "level"), [("oldest", 1), ("random", 1), ("oldest", 2), ("random", 2)])
def test_a_share_of_nodes_is_collapsed_before_the_protected_tail(placement, level):
    chance = generator_for("test", placement, level)
    lod_map = collapse_share(TREE, 96, 0.5, placement, level, chance, protected_tail=16)
    assert (lod_map.levels == level).sum() * 4 == 48
    assert not lod_map.levels[-4:].any()
    if placement == "oldest":
        assert (lod_map.levels[:12] == level).all()


def test_a_context_without_a_whole_node_before_the_tail_is_refused():
    with pytest.raises(InputError, match="no whole node of level 2"):
        collapse_share(TREE, 20, 0.5, "oldest", 2, generator_for("test"), protected_tail=8)
