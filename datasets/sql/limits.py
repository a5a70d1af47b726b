"""Limits on the memory, disk and time of SQL."""

import atexit
import itertools
import re
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

from mctrace.errors import ConfigError, InputError
from mctrace.ranges import NonNegativeFloat, check_ranges


@dataclass(frozen=True)
class SqlLimits:
    """Limits of one SQL connection; the defaults for memory and disk are DuckDB's own."""

    section: ClassVar[str] = "sql"

    memory: str = ""
    """maximum memory of one query, e.g. 4GB; empty: four fifths of the machine's"""
    spill: str = ""
    """maximum disk space for what does not fit into memory, e.g. 20GB; empty: nine tenths of what is free"""
    spill_folder: str = ""
    """folder for a scratch folder of spilled data, e.g. /scratch; empty: the system's"""
    timeout_seconds: NonNegativeFloat = 60.0
    """time limit of one `mctrace sql` query in a script or pipe; 0: none (--timeout)"""

    def __post_init__(self) -> None:
        check_ranges(self)
        for name in ("memory", "spill"):
            value = getattr(self, name)
            if value and not _SIZE.fullmatch(value):
                raise ConfigError(f"{self.section}.{name} = {value!r}: expected a size like 4GB or 512MB")
        if self.spill_folder and not Path(self.spill_folder).is_dir():
            raise ConfigError(f"{self.section}.spill_folder = {self.spill_folder!r}: no such folder")

    def settings(self) -> dict[str, object]:
        """DuckDB's settings. Raises InputError where no scratch folder can be made."""
        found: dict[str, object] = {"temp_directory": _scratch(self.spill_folder)}
        if self.memory:
            found["memory_limit"] = self.memory
        if self.spill:
            found["max_temp_directory_size"] = self.spill
        return found


_SIZE = re.compile(r"\d+(\.\d+)?\s*([KMGT]i?B)", re.IGNORECASE)
_NUMBER = itertools.count()


def _scratch(folder: str) -> str:
    """Scratch folder of one connection, which DuckDB creates on demand; no other connection can read it."""
    return str(_of_process(folder) / str(next(_NUMBER)))


@cache
def _of_process(folder: str) -> Path:
    """Scratch folder of this process, private and removed at exit."""
    try:
        made = Path(tempfile.mkdtemp(prefix="mctrace-spill-", dir=folder or None))
    except OSError as error:
        raise InputError(
            f"no scratch folder for SQL can be made in {folder or 'the temporary folder'}: {error.strerror} "
            "(--set sql.spill_folder=FOLDER names another)"
        ) from error
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made
