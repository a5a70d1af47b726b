"""Values that no key accepts are refused in one short line that names the key."""

import pytest

from mctrace.cli.configuration import PipelineConfig, known_keys, load_config
from mctrace.errors import ConfigError

NAN, INFINITE = float("nan"), float("inf")


def default_of(key: str) -> object:
    value: object = PipelineConfig()
    for name in key.split("."):
        value = getattr(value, name)
    return value


def impossible_values(key: str) -> list[object]:
    default = default_of(key)
    common: list[object] = [NAN, -INFINITE, 10**30, {"a": 1}, [[1]], " ", "a\0b"]
    match default:
        case bool():
            return [*common, 2, -1, "maybe", [], ""]
        case int() | float():
            return [*common, True, "many", "", [], [1]]
        case tuple():
            return [*common, True, "x", 5, [""], [NAN], [True], [10**30]]
        case None:
            return [*common, True, "", [], -1]
        case _:
            return [*common, True, 1.5, ["x"], "\x1b[31m", *([""] if default else [])]


@pytest.mark.parametrize("key", known_keys())
def test_impossible_values_are_refused_by_name(key):
    for value in impossible_values(key):
        with pytest.raises(ConfigError) as refused:
            load_config(None, (), {key: value}, {})
        message = str(refused.value)
        assert key in message, value
        assert "\n" not in message
        assert len(message) < 250


@pytest.mark.parametrize("key", [key for key in known_keys() if key.endswith("seed")])
def test_seeds_are_not_negative(key):
    with pytest.raises(ConfigError, match=f"{key} must be at least 0, got -1"):
        load_config(None, (f"{key}=-1",), {}, {})


def test_no_more_recency_levels_than_the_tree_has():
    with pytest.raises(
        ConfigError, match=r"recency_level_tokens has 5 numbers.*max_level = 2: give at most 2"
    ):
        load_config(None, ("collect.recency_level_tokens=[1, 2, 3, 4, 5]",), {}, {})
    with pytest.raises(ConfigError, match="give at most 1"):
        load_config(None, ("collect.recency_level_tokens=[1, 2]", "tree.max_level=1"), {}, {})
    for fits in (("tree.max_level=1",), ("collect.recency_level_tokens=[1, 2, 3]", "tree.max_level=3")):
        load_config(None, fits, {}, {})


def test_many_problems_are_not_all_listed():
    wrong = [f"collect.{key}=x" for key in ("horizon", "window", "lod0_window", "joint_edits", "joint_size")]
    with pytest.raises(ConfigError, match=r"collect\.horizon.*; and 2 more$"):
        load_config(None, wrong, {}, {})


def test_sql_may_be_written_over_several_lines():
    assert load_config(None, (), {"train.where": "a\n and b"}, {}).train.where == "a\n and b"
