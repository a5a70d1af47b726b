"""The exception tree: every mistake a person can make ends in one of these.

The console script prints their message and nothing else; a stack trace is for our own bugs. Each class
also inherits the built-in it specialises, so that library users can catch what they already know.
Messages say what was wrong, where (file, row, key) and what to do about it.
"""

import re


def one_line(error: BaseException) -> str:
    """What a library said over many lines, or in colours, as one plain line."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).replace("↳", "").split())


class MctraceError(Exception):
    """Base of every error that is not a bug in mctrace."""


class ConfigError(MctraceError, ValueError):
    """A configuration key or value that cannot be used."""


class InputError(MctraceError, ValueError):
    """A corpus, document, trace file or query that cannot be used."""


class LegalityError(InputError):
    """A LOD map or an action that no working context can hold."""


class ModelError(MctraceError, ValueError):
    """A base model or GistNet that is unknown, unsafe to load or does not fit."""


class StoreError(MctraceError, OSError):
    """A store that is missing, damaged, too new or otherwise unreadable."""


class CollectError(MctraceError, RuntimeError):
    """A collection run that could not be finished; what was committed stays."""


class OutputError(MctraceError, OSError):
    """A file that cannot be written: no room, no permission."""


def brief(error: BaseException) -> str:
    """An error of a library in one line: the first of its message, and its name where that says little."""
    first = next(iter(str(error).strip().splitlines()), "")
    says_enough = first and not isinstance(error, LookupError)
    return first if says_enough else f"{type(error).__name__} {first}".rstrip()
