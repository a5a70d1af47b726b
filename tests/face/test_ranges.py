"""Ranges declared in types are checked wherever a value comes from, and every refusal is worded alike."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import pytest
from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen

from mctrace.errors import ConfigError
from mctrace.ranges import Share, check_choice, check_range, check_ranges


@dataclass(frozen=True)
class Values:
    section: ClassVar[str] = "room.shelf"

    count: Annotated[int, Ge(1)] = 1
    rate: Annotated[float, Gt(0), Lt(1)] = 0.5
    share: Share = 0.5
    limit: Annotated[int, Ge(3)] | None = None
    size: Annotated[int, Ge(1)] | Literal["auto"] = "auto"
    mode: Literal["fast", "slow"] = "fast"
    speed: Literal["fast", "slow"] | None = None
    name: Annotated[str, MinLen(1)] = "name"
    horizons: Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1)] = (32,)
    pair: tuple[Share, Annotated[int, Le(9)]] = (0.5, 9)
    free: int = 0

    def __post_init__(self):
        check_ranges(self)


def test_values_at_both_ends_of_their_ranges_are_accepted():
    Values(count=1, rate=0.999, share=0, limit=3, size=1, mode="slow", speed="slow", pair=[1, -5], free=-9)
    Values(share=1, limit=None, size="auto")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "room.shelf.count must be at least 1, got 0"),
        ({"count": "one"}, "room.shelf.count must be a number, got 'one'"),
        ({"rate": 0}, "room.shelf.rate must be above 0, got 0"),
        ({"rate": 1.0}, "room.shelf.rate must be below 1, got 1.0"),
        ({"rate": float("nan")}, "room.shelf.rate must be above 0, got nan"),
        ({"share": 1.01}, "room.shelf.share must be at most 1, got 1.01"),
        ({"share": float("inf")}, "room.shelf.share must be at most 1, got inf"),
        ({"share": None}, "room.shelf.share must be a number, got None"),
        ({"limit": 2}, "room.shelf.limit must be at least 3, got 2"),
        ({"size": 0}, "room.shelf.size must be at least 1, got 0"),
        ({"size": "large"}, "room.shelf.size must be a number, got 'large'"),
        ({"mode": "idle"}, "room.shelf.mode must be one of fast, slow; got 'idle'"),
        ({"speed": "idle"}, "room.shelf.speed must be one of fast, slow; got 'idle'"),
        ({"name": ""}, "room.shelf.name must not be empty, got ''"),
        ({"horizons": ()}, r"room.shelf.horizons must not be empty, got \(\)"),
        ({"horizons": (4, 0)}, "room.shelf.horizons must be at least 1, got 0"),
        ({"pair": (0.5, 10)}, "room.shelf.pair must be at most 9, got 10"),
        ({"pair": (0.5,)}, r"room.shelf.pair must have 2 values, got \(0.5,\)"),
    ],
)
def test_a_value_out_of_range_is_refused_with_key_limit_and_value(values, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        Values(**values)


def test_a_subclass_with_a_section_of_its_own_is_named_by_it():
    class Other(Values):
        section = "room.floor"

    with pytest.raises(ConfigError, match=r"^room\.floor\.count"):
        Other(count=0)


def test_a_constraint_that_could_not_be_checked_is_an_error_in_the_declaration():
    @dataclass(frozen=True)
    class Unchecked(Values):
        few: Annotated[tuple[int, ...], MaxLen(3)] = ()

    with pytest.raises(TypeError, match="does not support MaxLen"):
        Unchecked()


def test_bounds_that_only_code_knows_are_worded_the_same():
    check_range("room.key", 0, at_least=0, at_most=1)
    check_range("room.key", 0.001, above=0)
    with pytest.raises(ConfigError, match=r"^room\.key must be at least 0\.5, got -1$"):
        check_range("room.key", -1, at_least=0.5, at_most=1)
    with pytest.raises(ConfigError, match=r"^room\.key must be at most 1, got 2$"):
        check_range("room.key", 2, at_least=0, at_most=1.0)
    with pytest.raises(ConfigError, match=r"^room\.key must be above 0, got 0$"):
        check_range("room.key", 0, above=0)
    with pytest.raises(ConfigError, match=r"^room\.key must be at least 0, got nan$"):
        check_range("room.key", float("nan"), at_least=0, at_most=1)


def test_an_unknown_choice_is_refused_with_what_can_be_chosen():
    check_choice("room.key", "mean", ("mean", "last"))
    with pytest.raises(ConfigError, match=r"room\.key must be one of mean, last; got 'first'"):
        check_choice("room.key", "first", ("mean", "last"))
