"""`mctrace`, the console script: its commands, which the `*_app` modules define, and how mistakes end.

Commands are thin; the work is in the `*_command` modules beside this file, imported when their command runs,
so that asking the store a question does not load a deep-learning stack.
"""

import errno
import logging
import os
import signal
import sys
from importlib.metadata import version
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from typer.exceptions import TyperException

from mctrace.cli.ask_app import ask_app
from mctrace.cli.collect_app import collect_app
from mctrace.cli.gist_app import gist_app
from mctrace.cli.learn_app import learn_app
from mctrace.context.shortage import shortage
from mctrace.errors import MctraceError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for commands in (collect_app, ask_app, learn_app):
    app.add_typer(commands)  # without a name: theirs are commands of mctrace itself
app.add_typer(gist_app, name="gist")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"mctrace {version('mctrace')}")
        raise typer.Exit


@app.callback()
def about(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Measure what every part of an LLM's working context is worth, keep it, query it, learn from it."""


def main() -> None:
    """Runs one command; a person's mistake ends in one line on standard error and a non-zero exit."""
    _quiet_libraries()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except TyperException as error:
        sys.exit(_refuse_arguments(error))
    except MctraceError as error:
        _complain(str(error))
        sys.exit(1)
    except OSError as error:
        if error.errno not in _OF_THE_MACHINE:
            raise
        _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
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


_OF_THE_MACHINE = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG,
    errno.EMFILE, errno.ENFILE, errno.EIO,
}  # fmt: skip
"""What no command can know beforehand: a full disk, a quota, a mode, a path that is too long."""


def _refuse_arguments(error: TyperException) -> int:
    """Print what is wrong with the command line and return the exit status; without a command, print help."""
    message, context = error.format_message(), getattr(error, "ctx", None)
    if message.startswith("Usage:"):
        print(message, file=sys.stderr)
    else:
        _complain(f"{message.rstrip('.')} ({context.command_path if context else 'mctrace'} --help)")
    return error.exit_code


def _complain(message: str) -> None:
    """One line, whatever names and other people's messages are in it."""
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
