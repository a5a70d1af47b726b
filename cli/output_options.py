"""`--quiet` and `--verbose`, which every command takes, and what was chosen."""

import functools
import inspect
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from mctrace.errors import ConfigError

_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress")]
_Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="messages of libraries, and stack traces of errors")
]


@dataclass
class _Chosen:
    quiet: bool = False
    verbose: bool = False


chosen = _Chosen()
"""of the command at work"""


def with_output_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with `--quiet` and `--verbose` behind its own options."""

    @functools.wraps(command)
    def run(*args: Any, quiet: bool = False, verbose: bool = False, **options: Any) -> None:
        if quiet and verbose:
            raise ConfigError("--quiet and --verbose: give one of them")
        chosen.quiet, chosen.verbose = quiet, verbose
        if verbose:
            _loosen_libraries()
        command(*args, **options)

    signature = inspect.signature(command)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in (("quiet", _Quiet), ("verbose", _Verbose))
    ]
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), *added]
    )
    run.__annotations__ = {**command.__annotations__, "quiet": _Quiet, "verbose": _Verbose}
    return run


def _loosen_libraries() -> None:
    os.environ["TRANSFORMERS_VERBOSITY"] = "info"
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("transformers").setLevel(logging.INFO)
