"""`mctrace`, the console script: the list of its commands, and one-line endings for people's mistakes.

Each command imports what it needs when it runs, so that asking the store a question does not load a
deep-learning stack.
"""

import errno
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import version
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from typer.exceptions import TyperException

from mctrace.cli.commands.attribute import attribute
from mctrace.cli.commands.collect import collect
from mctrace.cli.commands.compact import compact
from mctrace.cli.commands.derive import derive
from mctrace.cli.commands.evaluate import evaluate
from mctrace.cli.commands.export import export
from mctrace.cli.commands.gist_ceiling import gist_ceiling
from mctrace.cli.commands.gist_evaluate import gist_evaluate
from mctrace.cli.commands.gist_train import gist_train
from mctrace.cli.commands.init import init
from mctrace.cli.commands.log import log
from mctrace.cli.commands.plan import plan
from mctrace.cli.commands.pull import pull
from mctrace.cli.commands.push import push
from mctrace.cli.commands.report import report
from mctrace.cli.commands.show import show
from mctrace.cli.commands.sql import sql
from mctrace.cli.commands.train import train
from mctrace.cli.commands.verify import verify
from mctrace.cli.output_options import chosen, with_output_options
from mctrace.context.shortage import shortage
from mctrace.errors import MctraceError

_HELP_NAMES = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    no_args_is_help=True,
    context_settings=_HELP_NAMES,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_COMMANDS: tuple[Callable[..., None], ...] = (
    attribute, init, plan, collect, log, compact, verify, sql, derive, export, report, show, train, evaluate,
    push, pull,
)  # fmt: skip
"""in the order of `mctrace --help`"""
for command in _COMMANDS:
    app.command()(with_output_options(command))

gist = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Train and judge GistNets.")
gist.command("train")(with_output_options(gist_train))
gist.command("evaluate")(with_output_options(gist_evaluate))
gist.command("ceiling")(with_output_options(gist_ceiling))
app.add_typer(gist, name="gist")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"mctrace {version('mctrace')}")
        raise typer.Exit


@app.callback()
def about(
    show_version: Annotated[
        bool,
        typer.Option("-V", "--version", callback=_print_version, is_eager=True, help="print version"),
    ] = False,
) -> None:
    """Measure what every part of an LLM's working context is worth, keep it, query it, learn from it."""


def main() -> None:
    """Run one command; a person's mistake ends in one line on standard error and a non-zero exit."""
    _quiet_libraries()
    if sys.stdout is None:  # Python's own sign of a descriptor that is closed
        _complain("standard output is closed: nothing could be answered")
        sys.exit(1)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except TyperException as error:
        sys.exit(_refuse_arguments(error))
    except MctraceError as error:
        if chosen.verbose:
            traceback.print_exc()
        _complain(str(error))
        sys.exit(1)
    except OSError as error:
        ran_out = shortage(error)
        if ran_out is None and error.errno not in _OF_THE_MACHINE:
            raise
        _complain(ran_out or (f"{error.filename}: {error.strerror}" if error.filename else str(error)))
        sys.exit(1)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("ray", "transformers", "datasketch", "huggingface_hub"):
            raise
        _complain(f"this command needs {error.name}: pip install 'mctrace[collect]'")
        sys.exit(1)
    except BaseException as error:  # a panic of a Rust library is no Exception
        if (ran_out := shortage(error)) is None:
            raise
        _complain(ran_out)
        sys.exit(1)


_OF_THE_MACHINE = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENFILE, errno.EIO}
"""Errors of the machine that no command can foresee, besides shortages: permissions, path too long."""


def _refuse_arguments(error: TyperException) -> int:
    """Print what is wrong with the command line and return the exit status; without a command, print help."""
    message, context = error.format_message(), getattr(error, "ctx", None)
    if message.startswith("Usage:"):
        print(message, file=sys.stderr)
    else:
        _complain(f"{message.rstrip('.')} ({context.command_path if context else 'mctrace'} --help)")
    return error.exit_code


def _complain(message: str) -> None:
    """Print one line, whatever names and libraries' messages are in it."""
    line = " ".join(message.split()).removesuffix(" ^")
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    errors = Console(stderr=True, soft_wrap=True)
    errors.print(f"mctrace: {line}", style="red", markup=False, highlight=False)


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _quiet_libraries() -> None:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("transformers").setLevel(logging.ERROR)
