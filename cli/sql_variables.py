"""Variables of a query, which it reads with getvariable: `--var name=value` as numbers, lists or text."""

import json
from collections.abc import Sequence

from mctrace.errors import InputError


def parse_variables(assignments: Sequence[str], written: str = "--var") -> dict[str, object]:
    """Values by name: parsed as JSON, or text where that fails.

    `written` is the option or command in front of an assignment, for errors. Raises InputError for an
    assignment without a name.
    """
    found: dict[str, object] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals or not name.strip().isidentifier():
            raise InputError(f"{written} {text!r}: expected name=value, like z=3 or entry_levels=[1,2]")
        try:
            found[name.strip()] = json.loads(value)
        except ValueError:
            found[name.strip()] = value
    return found
