"""One text from a file or from standard input."""

import sys
from pathlib import Path

from mctrace.errors import InputError, shorten


def read_text(file: str) -> str:
    """The text of `file`, or of standard input for "-". Raises InputError unless it is some UTF-8 text."""
    name = "standard input" if file == "-" else shorten(file, 200)
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(
            f"cannot read {name}: {reason}; give a text file, or - for standard input"
        ) from error
    if b"\0" in content:
        raise InputError(f"{name} is binary: give a text file in UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name} is not UTF-8 text (byte {error.start}): convert it first, or give another file"
        ) from error
    if not text.strip():
        raise InputError(f"{name} is empty: give it a text of at least two parts, or a --target")
    return text
