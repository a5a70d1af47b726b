"""Logs of a run: one file per process in a folder, as text or as JSON lines.

Everything goes through the standard library's logger `mctrace`; a record's own fields (`extra`) are keys of
its JSON object.
"""

import json
import logging
import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Literal

from mctrace.errors import OutputError
from mctrace.ranges import check_ranges

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


@dataclass(frozen=True)
class LogConfig:
    """Logs that a collection run keeps: one file of the driver and one of each worker."""

    section: ClassVar[str] = "logs"

    folder: str = ""
    """folder of the files, on each node its own unless it is shared, e.g. logs; empty: none are kept"""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """debug, info, warning or error; debug has what Ray itself says"""
    format: Literal["text", "json"] = "text"
    """text, or json: an object a line"""

    def __post_init__(self) -> None:
        check_ranges(self)


def keep_logs(config: LogConfig, role: str) -> None:
    """Writes this process's log as ROLE-HOST-PID.log (or .jsonl) from now on. Raises OutputError."""
    if not config.folder:
        return
    suffix = "jsonl" if config.format == "json" else "log"
    path = Path(config.folder).expanduser() / f"{role}-{platform.node()}-{os.getpid()}.{suffix}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path)
    except OSError as error:
        raise OutputError(f"cannot write logs to {path}: {error.strerror or error}") from error
    handler.setFormatter(_JsonLines(role) if config.format == "json" else _Text(role))
    handler.setLevel(config.level.upper())
    logger = logging.getLogger("mctrace")
    logger.addHandler(handler)
    logger.setLevel(min(handler.level, logger.level or logging.INFO))


class _JsonLines(logging.Formatter):
    def __init__(self, role: str) -> None:
        super().__init__()
        self._who = {"role": role, "host": platform.node(), "pid": os.getpid()}

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        row = {"time": time, "level": record.levelname.lower(), **self._who, "message": record.getMessage()}
        own = {key: value for key, value in vars(record).items() if key not in _PLAIN}
        row |= {key: value for key, value in own.items() if not key.startswith("_")}  # Ray adds such
        if record.exc_info:
            row["traceback"] = self.formatException(record.exc_info)
        return json.dumps(row, default=str)


class _Text(logging.Formatter):
    def __init__(self, role: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)s {role} {os.getpid()}: %(message)s")
