"""Precedence of the configuration's sources, and errors that name key, value and remedy."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest
from annotated_types import Ge, Gt, Le, Lt, MinLen

from mctrace.cli.configuration import PipelineConfig, known_keys, load_config
from mctrace.cli.presets import TrainPreset, small_preset_of, train_presets
from mctrace.errors import ConfigError
from mctrace.train.config import small_preset

TEMPLATE = Path("cli/template.toml")


def test_a_flag_wins_over_set_over_preset_over_environment_over_file_over_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "pipeline.toml"

    def preset(given):
        return {"collect": {"horizon": 4}}

    assert load_config(None, environment={}).collect.horizon == 128
    file.write_text("[collect]\nhorizon = 2\n")
    assert load_config(None, environment={}).collect.horizon == 2
    environment = {"MCTRACE_COLLECT__HORIZON": "3", "MCTRACE_CACHE": "/not/a/key"}
    assert load_config(file, environment=environment).collect.horizon == 3
    assert load_config(file, environment=environment, preset=preset).collect.horizon == 4
    sets = ["collect.horizon=5"]
    assert load_config(file, sets, environment=environment, preset=preset).collect.horizon == 5
    flags = {"collect.horizon": 6, "model.name": None}
    found = load_config(file, sets, flags, environment, preset)
    assert found.collect.horizon == 6
    assert found.model.name == "smollm2-135m"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("collect.horizn=3", "did you mean collect.horizon"),
        ("nonsense=1", "sections are allocator, closed_loop, collect, corpus"),
        ("collect.horizon=0", "collect.horizon must be at least 1, got 0"),
        ("collect.horizon=many", "collect.horizon = 'many'"),
        ("model.dtype=int8", "model.dtype must be one of auto, float32"),
        ('collect.policies=["newest"]', "collect.policies must be one of"),
        ("tree.block_size=1", "tree.block_size must be at least 2"),
        ("train.optimiser.gradient_clip=-1", "train.optimiser.gradient_clip must be"),
        ("collect.horizon", "expected key=value"),
    ],
)
def test_a_mistake_names_key_value_and_remedy(assignment, message):
    with pytest.raises(ConfigError, match=message):
        load_config(None, [assignment], environment={})


def test_an_unknown_key_in_the_file_names_the_file_and_the_nearest_key(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[corpus]\nlimt = 3\n")
    with pytest.raises(ConfigError, match=r"corpus\.limt.*mine\.toml.*corpus\.limit"):
        load_config(file, environment={})


def test_a_file_that_is_missing_or_not_toml_is_named(tmp_path):
    with pytest.raises(ConfigError, match="mctrace init"):
        load_config(tmp_path / "none.toml", environment={})
    (tmp_path / "bad.toml").write_text("[corpus\n")
    with pytest.raises(ConfigError, match=r"bad\.toml cannot be read"):
        load_config(tmp_path / "bad.toml", environment={})


def test_the_template_shows_every_key_at_its_default():
    text = TEMPLATE.read_text(encoding="utf-8")
    resolved = asdict(load_config(TEMPLATE, environment={}))
    default = asdict(PipelineConfig())
    default["corpus"]["paths"] = ("stdlib",)  # the one thing without which nothing runs
    assert resolved == default
    uncommented = re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE)
    shown = set(_flatten(tomllib.loads(uncommented)))
    assert shown == set(known_keys())


def test_the_small_preset_leaves_other_keys_alone(tmp_path):
    file = tmp_path / "pipeline.toml"
    file.write_text('[train]\ntarget = "literal"\nseed = 7\n[train.objective]\nrank_weight = 0.25\n')
    found = load_config(file, ["train.network.name=linear"], environment={}, preset=small_preset_of).train
    assert (found.target, found.seed, found.objective.rank_weight) == ("literal", 7, 0.25)
    assert found.optimiser == small_preset("linear").optimiser


def test_presets_add_up_and_the_later_wins():
    both = train_presets([TrainPreset.SMALL, TrainPreset.DENSE])
    found = load_config(None, ["train.objective.rank_weight=0.25"], environment={}, preset=both).train
    assert found.optimiser == small_preset().optimiser
    assert (found.objective.label_weights, found.objective.rank_weight) == ("inverse_variance", 0.25)


def test_a_value_beside_the_preset_need_not_fit_the_defaults_it_replaces():
    found = load_config(None, ["train.optimiser.total_steps=45"], environment={}, preset=small_preset_of)
    assert (found.train.optimiser.total_steps, found.train.optimiser.warmup_steps) == (45, 40)


def test_an_environment_variable_that_is_no_key_is_refused():
    with pytest.raises(ConfigError, match="MCTRACE_COLLECT_HORIZON"):
        load_config(None, environment={"MCTRACE_COLLECT_HORIZON": "7"})


def sections(config_type: type = PipelineConfig, path: str = "") -> Iterator[tuple[str, type]]:
    """Every configuration dataclass with its dotted place."""
    for name, hint in get_type_hints(config_type).items():
        if isinstance(hint, type) and is_dataclass(hint):
            place = f"{path}.{name}".lstrip(".")
            yield place, hint
            yield from sections(hint, place)


def outside(hint: Any) -> Iterator[object]:
    """Values just outside of what a type allows, one for each of its constraints and lists of choices."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        yield from outside(arguments[0])
        for constraint in arguments[1:]:
            match constraint:
                case Ge(ge=bound):
                    yield bound - 1
                case Gt(gt=bound) | Lt(lt=bound):
                    yield bound
                case Le(le=bound):
                    yield bound + 1
                case MinLen(min_length=1):
                    yield [] if get_origin(arguments[0]) is tuple else ""
    elif origin is Literal:
        yield "nonsense"
    elif origin is tuple and arguments[-1] is Ellipsis:
        yield from ([value] for value in outside(arguments[0]))
    elif origin is tuple:
        yield from ([value] * len(arguments) for value in outside(arguments[0]))
    else:
        for alternative in (a for a in arguments if get_origin(a) is not Literal):
            yield from outside(alternative)


OUTSIDE = [
    (f"{place}.{field.name}", config_type, value)
    for place, config_type in sections()
    for field in fields(config_type)
    for value in outside(get_type_hints(config_type, include_extras=True)[field.name])
]


@pytest.mark.parametrize(("key", "config_type", "value"), OUTSIDE)
def test_every_range_is_refused_alike_from_python_and_from_the_command_line(key, config_type, value):
    name = key.rpartition(".")[2]
    with pytest.raises(ConfigError) as in_python:
        config_type(**{name: tuple(value) if isinstance(value, list) else value})
    assert str(in_python.value).startswith(f"{key} must ")
    with pytest.raises(ConfigError) as on_the_command_line:
        load_config(None, flags={key: value}, environment={})
    assert str(in_python.value).replace("()", "[]") in str(on_the_command_line.value)


def test_ranges_are_declared_in_every_section():
    assert len(OUTSIDE) > 100


def test_every_configuration_names_its_own_place():
    for place, config_type in sections():
        assert config_type.section == place


def _flatten(table, prefix=""):
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key
