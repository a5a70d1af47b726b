"""Configuration of every command: the sections of pipeline.toml, and the precedence of their sources.

A flag wins over --set, --set over a --preset, a preset over the environment (MCTRACE_COLLECT__HORIZON=128),
the environment over the file, the file over the defaults. Sections are the frozen dataclasses of the rooms
they configure.
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

from annotated_types import BaseMetadata, Ge, Gt, Le, Lt, MinLen
from pydantic import TypeAdapter, ValidationError

from mctrace.analysis.closed_loop.config import ClosedLoopConfig
from mctrace.cli.value_checks import refuse_impossible
from mctrace.collect.cluster.run_logs import LogConfig
from mctrace.collect.config import CollectConfig, CorpusConfig, GistConfig, ModelConfig, RayConfig
from mctrace.collect.run_settings import RunSettings
from mctrace.context.allocator import AllocatorConfig
from mctrace.context.tree import TreeShape
from mctrace.datasets.sql.limits import SqlLimits
from mctrace.datasets.store.provenance import Mix
from mctrace.errors import ConfigError, shorten
from mctrace.gists.config import GistCeilingConfig, GistEvaluationConfig, GistTrainConfig, KeyValueTrainConfig
from mctrace.ranges import NonNegativeInt, check_ranges, choice_message, range_message
from mctrace.train.config import TrainConfig

DEFAULT_FILE = "pipeline.toml"
_ENVIRONMENT_PREFIX = "MCTRACE_"
_NUM_PROBLEMS = 3
"""invalid values that one error names"""
_NOT_KEYS = ("MCTRACE_CACHE",)
"""environment variables that set no key: the folder of converted models"""


@dataclass(frozen=True)
class StoreConfig:
    """The trace store."""

    section: ClassVar[str] = "store"

    uri: str = "traces"
    """local folder or URI like s3://bucket/folder; access keys come from the environment only"""
    skip_damaged: bool = False
    """skip damaged parts and list them (--skip-damaged); otherwise they are refused"""
    compact_every: NonNegativeInt = 2000
    """parts after which a run compacts what it has committed; 0: only mctrace compact does"""
    mix: tuple[Mix, ...] = ()
    """what the labels that a LensNet learns from may differ in: models, gists, dtypes (--mix)"""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class PipelineConfig:
    """Every section of pipeline.toml."""

    store: StoreConfig = field(default_factory=StoreConfig)
    sql: SqlLimits = field(default_factory=SqlLimits)
    model: ModelConfig = field(default_factory=ModelConfig)
    gists: GistConfig = field(default_factory=GistConfig)
    tree: TreeShape = field(default_factory=TreeShape)
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    collect: CollectConfig = field(default_factory=CollectConfig)
    ray: RayConfig = field(default_factory=RayConfig)
    logs: LogConfig = field(default_factory=LogConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    allocator: AllocatorConfig = field(default_factory=AllocatorConfig)
    closed_loop: ClosedLoopConfig = field(default_factory=ClosedLoopConfig)
    gist_train: GistTrainConfig = field(default_factory=GistTrainConfig)
    key_value_train: KeyValueTrainConfig = field(default_factory=KeyValueTrainConfig)
    gist_evaluate: GistEvaluationConfig = field(default_factory=GistEvaluationConfig)
    gist_ceiling: GistCeilingConfig = field(default_factory=GistCeilingConfig)

    def __post_init__(self) -> None:
        given, deepest = self.collect.recency_level_tokens, self.tree.max_level
        # The default has two, and fits a tree of one level as well.
        if len(given) > deepest and given != CollectConfig().recency_level_tokens:
            raise ConfigError(
                f"collect.recency_level_tokens has {len(given)} numbers, one for each level below "
                f"tree.max_level = {deepest}: give at most {deepest}"
            )

    def to_json(self) -> str:
        """The resolved configuration as JSON, kept beside everything made with it."""
        return json.dumps(asdict(self), indent=2, sort_keys=True)

    def run_settings(self) -> RunSettings:
        """The sections that decide which trajectories a collection run measures."""
        return RunSettings(self.model, self.gists, self.tree, self.corpus, self.collect, self.allocator)


def load_config(
    file: Path | None,
    assignments: Sequence[str] = (),
    flags: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
    preset: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
) -> PipelineConfig:
    """Merge every source of configuration values.

    `file` None means pipeline.toml where there is one. `flags` maps dotted keys to values; None means that a
    flag was not given. `preset` maps the nested sections of all other sources to its own.

    Raises ConfigError naming key, value, source and remedy.
    """
    weaker = [*_from_file(file), *_from_environment(os.environ if environment is None else environment)]
    stronger = [
        *(("--set", *_parse_assignment(text)) for text in assignments),
        *(("flag", key, value) for key, value in (flags or {}).items() if value is not None),
    ]
    chosen = preset(_nested([*weaker, *stronger])) if preset else {}
    data = _nested([*weaker, *(("preset", key, value) for key, value in _flatten(chosen)), *stronger])
    try:
        return _adapter().validate_python(data)
    except ValidationError as error:
        problems = [_describe(problem) for problem in error.errors()]
        more = f"; and {len(problems) - _NUM_PROBLEMS} more" if len(problems) > _NUM_PROBLEMS else ""
        raise ConfigError("; ".join(problems[:_NUM_PROBLEMS]) + more) from None


@cache
def _adapter() -> TypeAdapter[PipelineConfig]:
    return TypeAdapter(PipelineConfig)


def _from_file(file: Path | None) -> list[tuple[str, str, Any]]:
    if file is None:
        file = Path(DEFAULT_FILE)
        if not file.exists():
            return []
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no configuration file {file}: 'mctrace init' writes one") from None
    except OSError as error:
        name = str(file) if len(str(file)) <= 80 else f"{str(file)[:80]}…"
        raise ConfigError(f"configuration file {name} cannot be read: {error.strerror}") from error
    except (ValueError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    return [(str(file), key, value) for key, value in _flatten(content)]


def _from_environment(environment: Mapping[str, str]) -> list[tuple[str, str, Any]]:
    return [
        (name, name.removeprefix(_ENVIRONMENT_PREFIX).lower().replace("__", "."), _parse_value(text))
        for name, text in sorted(environment.items())
        if name.startswith(_ENVIRONMENT_PREFIX) and name not in _NOT_KEYS
    ]


def _parse_assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r}: expected key=value, like collect.horizon=128")
    return key.strip(), _parse_value(value.strip())


def _parse_value(text: str) -> Any:
    """Parse a TOML value; anything else is a string, so that paths need no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _flatten(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in table.items():
        if isinstance(value, dict):
            flat += _flatten(value, f"{prefix}{key}.")
        else:
            flat.append((prefix + key, value))
    return flat


def _nested(layers: Sequence[tuple[str, str, Any]]) -> dict[str, Any]:
    """Nest (origin, dotted key, value) into sections; later ones win. Raises ConfigError for unknown keys."""
    data: dict[str, Any] = {}
    for origin, key, value in layers:
        _check_known(key, origin)
        refuse_impossible(key, value, _default(key), origin)
        _put(data, key, value)
    return data


def _put(data: dict[str, Any], key: str, value: object) -> None:
    *sections, name = key.split(".")
    for section in sections:
        data = data.setdefault(section, {})
    data[name] = value


def known_keys(config_type: type = PipelineConfig, prefix: str = "") -> list[str]:
    """Every dotted key of a configuration."""
    keys: list[str] = []
    hints = get_type_hints(config_type)
    for f in fields(config_type):
        nested = hints[f.name]
        if isinstance(nested, type) and is_dataclass(nested):
            keys += known_keys(nested, f"{prefix}{f.name}.")
        else:
            keys.append(prefix + f.name)
    return keys


@cache
def _all_keys() -> list[str]:
    return known_keys()


@cache
def _defaults() -> PipelineConfig:
    return PipelineConfig()


def _default(key: str) -> object:
    value: object = _defaults()
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _check_known(key: str, origin: str) -> None:
    keys = _all_keys()
    if key in keys:
        return
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"sections are {', '.join(_sections(keys))}"
    raise ConfigError(f"unknown key {key!r} ({origin}): {hint}")


def _sections(keys: Sequence[str]) -> list[str]:
    return sorted({key.split(".")[0] for key in keys})


_CONSTRAINTS: Mapping[str, tuple[str, Callable[[Any], BaseMetadata]]] = {
    "greater_than_equal": ("ge", Ge),
    "greater_than": ("gt", Gt),
    "less_than_equal": ("le", Le),
    "less_than": ("lt", Lt),
    "too_short": ("min_length", MinLen),
    "string_too_short": ("min_length", MinLen),
}
"""pydantic's errors about ranges, by type: the name of the bound in their context, and its constraint"""


def _describe(problem: Any) -> str:
    """Message of one pydantic error; ranges are worded by `mctrace.ranges`, as for values made in Python."""
    context, value = problem.get("ctx", {}), problem["input"]
    if isinstance(context.get("error"), ConfigError):
        return str(context["error"])
    key = _known_key(problem["loc"])
    if problem["type"] in _CONSTRAINTS:
        bound, constraint = _CONSTRAINTS[problem["type"]]
        return range_message(key, value, constraint(context[bound]))
    if problem["type"] == "literal_error":
        return choice_message(key, value, re.findall(r"'(.*?)'", context["expected"]))
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key} = {shorten(repr(value), 41)}: {message}"


def _known_key(location: Sequence[str | int]) -> str:
    """The dotted key at a pydantic error's location, without the items and alternatives inside its value."""
    places = [".".join(map(str, location[:end])) for end in range(len(location), 0, -1)]
    keys = known_keys()
    return next((place for place in places if place in keys), places[0])
