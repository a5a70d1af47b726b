"""Seeded generators depend on their key alone."""

from hypothesis import assume, given
from hypothesis import strategies as st

from mctrace.seeding import generator_for
from tests.context.strategies import light

keys = st.lists(st.text(max_size=4) | st.integers(-5, 5), max_size=4)


@light
@given(keys)
def test_a_key_always_gives_the_same_draws(key):
    assert generator_for(*key).random(4).tolist() == generator_for(*key).random(4).tolist()


@light
@given(keys, keys)
def test_different_keys_give_different_draws(one, other):
    assume(one != other)
    assert generator_for(*one).random(4).tolist() != generator_for(*other).random(4).tolist()


def test_names_do_not_run_into_each_other_and_numbers_are_not_their_digits():
    draws = [generator_for(*key).random() for key in [("ab", "c"), ("a", "bc"), ("abc",), ("1",), (1,)]]
    assert len(set(draws)) == 5


def test_the_draws_of_a_key_are_the_same_in_every_release():
    """Plans, splits and samples of existing stores depend on it."""
    assert generator_for("document", "random", 3).integers(0, 1000, 5).tolist() == [996, 594, 799, 203, 150]
