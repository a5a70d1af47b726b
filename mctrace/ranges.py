"""Ranges of configuration values, declared once in the type of a field: `Annotated[int, Ge(1)]`.

Configuration dataclasses call `check_ranges` in `__post_init__`, so values made in Python obey the same
declaration that pydantic enforces on files, flags and environment variables. Refusals name the dotted key, the
range and the value (`range_message`, `choice_message`).
"""

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Protocol, Union, get_args, get_origin, get_type_hints

from annotated_types import BaseMetadata, Ge, Gt, Le, Lt, MinLen

from mctrace.errors import ConfigError

PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Share = Annotated[float, Ge(0), Le(1)]


class Configuration(Protocol):
    """A dataclass of configuration values; `section` is its dotted place in pipeline.toml."""

    section: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]


def check_ranges(config: Configuration) -> None:
    """Check every field of a dataclass against its type's constraints and choices.

    Understands `Annotated` with Ge, Gt, Le, Lt and MinLen, `Literal`, unions and tuples of these. Raises
    ConfigError naming `section.field`.
    """
    for name, hint in _field_types(type(config)).items():
        _check(f"{config.section}.{name}", getattr(config, name), hint)


def check_range(
    key: str,
    value: float,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
) -> None:
    """Check one value against bounds that only code knows, such as another field's value.

    Raises ConfigError naming the dotted `key` unless `value` is within every bound given.
    """
    if at_least is not None:
        _check_constraint(key, value, Ge(at_least))
    if above is not None:
        _check_constraint(key, value, Gt(above))
    if at_most is not None:
        _check_constraint(key, value, Le(at_most))


def check_choice(key: str, value: object, choices: Sequence[object]) -> None:
    """Raises ConfigError naming the dotted `key` unless `value` is one of `choices`."""
    if value not in choices:
        raise ConfigError(choice_message(key, value, choices))


def range_message(key: str, value: object, constraint: BaseMetadata) -> str:
    """Refusal of a value by one constraint: "corpus.limit must be at least 3, got 2"."""
    return f"{key} must {_rule(constraint)[0]}, got {value!r}"


def choice_message(key: str, value: object, choices: Sequence[object]) -> str:
    """Refusal of a value that is not one of `choices`."""
    return f"{key} must be one of {', '.join(map(str, choices))}; got {value!r}"


@cache
def _field_types(config_type: type[Configuration]) -> dict[str, Any]:
    hints = get_type_hints(config_type, include_extras=True)
    return {field.name: hints[field.name] for field in fields(config_type)}


def _check(key: str, value: object, hint: Any) -> None:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        _check(key, value, arguments[0])
        for constraint in arguments[1:]:
            _check_constraint(key, value, constraint)
    elif origin is Literal:
        check_choice(key, value, arguments)
    elif origin in (Union, UnionType):
        _check_union(key, value, arguments)
    elif origin is tuple and isinstance(value, tuple | list):
        _check_items(key, value, arguments)


def _check_union(key: str, value: object, alternatives: Sequence[Any]) -> None:
    choices = [choice for hint in alternatives if get_origin(hint) is Literal for choice in get_args(hint)]
    others = [hint for hint in alternatives if get_origin(hint) is not Literal and hint is not NoneType]
    if value in choices or (value is None and NoneType in alternatives):
        return
    if not others:
        check_choice(key, value, choices)
    for hint in others:
        _check(key, value, hint)


def _check_items(key: str, value: Sequence[object], item_types: Sequence[Any]) -> None:
    if item_types[-1] is Ellipsis:
        item_types = [item_types[0]] * len(value)
    if len(value) != len(item_types):
        raise ConfigError(f"{key} must have {len(item_types)} values, got {value!r}")
    for item, hint in zip(value, item_types, strict=True):
        _check(key, item, hint)


def _check_constraint(key: str, value: object, constraint: BaseMetadata) -> None:
    _, satisfied = _rule(constraint)
    try:
        if satisfied(value):
            return
    except TypeError:
        raise ConfigError(f"{key} must be a number, got {value!r}") from None
    raise ConfigError(range_message(key, value, constraint))


def _rule(constraint: BaseMetadata) -> tuple[str, Callable[[Any], bool]]:
    """A constraint in words, and its test, which NaN always fails."""
    match constraint:
        case Ge(ge=bound):
            return f"be at least {_plain(bound)}", lambda value: bool(value >= bound)
        case Gt(gt=bound):
            return f"be above {_plain(bound)}", lambda value: bool(value > bound)
        case Le(le=bound):
            return f"be at most {_plain(bound)}", lambda value: bool(value <= bound)
        case Lt(lt=bound):
            return f"be below {_plain(bound)}", lambda value: bool(value < bound)
        case MinLen(min_length=1):
            return "not be empty", lambda value: len(value) > 0
    raise TypeError(f"check_ranges does not support {constraint}")


def _plain(bound: Any) -> Any:
    """1 instead of 1.0: pydantic turns the bounds of floats into floats."""
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound
