"""Settings as flags of a command."""

import json
from collections.abc import Mapping


def set_flags(settings: Mapping[str, object]) -> list[str]:
    """`--set key=value` for each, as a person would type it."""
    return [
        flag
        for key, value in settings.items()
        for flag in ("--set", f"{key}={json.dumps(list(value) if isinstance(value, tuple) else value)}")
    ]
