"""Refusals of configuration values, worded alike everywhere."""

import pytest

from mctrace.errors import ConfigError
from mctrace.ranges import check_choice, check_range


@pytest.mark.parametrize("value", [0, 0.5, 1])
def test_both_ends_of_a_range_belong_to_it(value):
    check_range("room.key", value, at_least=0, at_most=1)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (-1, "room.key must be at least 0, got -1"),
        (1.01, "room.key must be at most 1, got 1.01"),
        (float("inf"), "room.key must be at most 1, got inf"),
    ],
)
def test_a_value_out_of_range_is_refused_with_key_limit_and_value(value, why):
    with pytest.raises(ConfigError, match=why):
        check_range("room.key", value, at_least=0, at_most=1)


def test_the_end_of_a_range_that_must_be_exceeded_does_not_belong_to_it():
    check_range("room.key", 0.001, above=0)
    with pytest.raises(ConfigError, match=r"room\.key must be above 0, got 0"):
        check_range("room.key", 0, above=0)


def test_a_value_that_is_not_a_number_is_in_no_range():
    with pytest.raises(ConfigError, match=r"room\.key"):
        check_range("room.key", float("nan"), at_least=0, at_most=1)


def test_a_range_may_be_open_on_either_side():
    check_range("room.key", 10**9, at_least=0)
    check_range("room.key", -(10**9), at_most=0)


def test_an_unknown_choice_is_refused_with_what_can_be_chosen():
    check_choice("room.key", "mean", ("mean", "last"))
    with pytest.raises(ConfigError, match=r"room\.key must be one of mean, last; got 'first'"):
        check_choice("room.key", "first", ("mean", "last"))
