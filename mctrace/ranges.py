"""Range checks for configuration values, so that every room words its refusals alike."""

from mctrace.errors import ConfigError


def check_range(
    key: str,
    value: float,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
) -> None:
    """Raises ConfigError naming the dotted `key` unless `value` is within every bound given.

    Conditions are written so that NaN fails each of them.
    """
    if at_least is not None and not value >= at_least:
        raise ConfigError(f"{key} must be at least {at_least}, got {value}")
    if above is not None and not value > above:
        raise ConfigError(f"{key} must be above {above}, got {value}")
    if at_most is not None and not value <= at_most:
        raise ConfigError(f"{key} must be at most {at_most}, got {value}")


def check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ConfigError naming the dotted `key` unless `value` is one of `choices`."""
    if value not in choices:
        raise ConfigError(f"{key} must be one of {', '.join(choices)}; got {value!r}")
