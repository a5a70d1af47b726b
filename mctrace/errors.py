"""Exception tree: every user error is raised as one of these.

The console script prints their message only; stack traces are for bugs of mctrace itself. Each class also
inherits the built-in exception that it specialises, so that library users can catch either. Messages say what
is wrong, where (file, row, key), and the remedy.
"""

import re


def one_line(error: BaseException) -> str:
    """What a library said over many lines, or in colours, as one plain line."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).replace("↳", "").split())


class MctraceError(Exception):
    """Base of every error that is not a bug in mctrace."""


class ConfigError(MctraceError, ValueError):
    """Invalid configuration key or value."""


class InputError(MctraceError, ValueError):
    """Corpus, document, trace file, query, checkpoint or run folder that cannot be used."""


class LegalityError(InputError):
    """LOD map or action that is not legal in a working context."""


class ModelError(MctraceError, ValueError):
    """Base model or GistNet that is unknown, unsafe to load or incompatible."""


class StoreError(MctraceError, OSError):
    """Store that is missing, damaged, too new or otherwise unreadable."""


class CollectError(MctraceError, RuntimeError):
    """Collection run that could not finish; committed parts are kept."""


class OutputError(MctraceError, OSError):
    """File that cannot be written: disk full, no permission."""


def brief(error: BaseException) -> str:
    """A library's error in one line of at most 300 characters: the first line of its message, with the class name
    if that is not enough.
    """
    first = shorten(next(iter(str(error).strip().splitlines()), ""), 300)
    is_clear = first and not isinstance(error, LookupError)
    return first if is_clear else f"{type(error).__name__} {first}".rstrip()


def shorten(text: str, most: int) -> str:
    """`text` cut to `most` characters, with an ellipsis where something is cut."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
