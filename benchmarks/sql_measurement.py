"""One measurement of the SQL benchmark: `python -m benchmarks.sql_measurement JSON`.

A process of its own, so that its peak memory is its own; two threads and 4 GB, as on a small machine. Prints
one JSON object: seconds of each repetition, the peak of the process's memory, and the answer.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import duckdb

LIMITS = {"threads": 2, "memory_limit": "4GB"}

_OF_ONE_SNAPSHOT = ("snapshot_row", "snapshot_actions")
"""Analyses of single snapshots: reports and `mctrace show` narrow them to what they show."""


def main() -> None:
    """Run the measurement that the JSON argument describes."""
    asked = json.loads(sys.argv[1])
    run = {
        "ours": _ours,
        "bare": _bare,
        "analysis": _analysis,
        "derive": _derive,
        "copy": _copy,
        "open": _open,
    }
    seconds, answer = run[asked["side"]](asked)
    # Not ru_maxrss: a child's begins with its parent's.
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
    print(json.dumps({"seconds": seconds, "peak_mb": peak, "answer": answer}, default=str))


def _timed(asked: dict[str, Any], ask: Callable[[], Any]) -> tuple[list[float], Any]:
    seconds, answer = [], None
    for _ in range(asked["repeats"]):
        started = time.perf_counter()
        answer = ask()
        seconds.append(time.perf_counter() - started)
    return seconds, answer


def _ours(asked: dict[str, Any]) -> tuple[list[float], Any]:
    connection = _connection(asked)
    return _timed(asked, lambda: connection.execute(asked["sql"]).fetchall())


def _connection(asked: dict[str, Any]) -> duckdb.DuckDBPyConnection:
    from mctrace.datasets.sql.connection import connect
    from mctrace.datasets.store.store import open_store

    version = open_store(asked["store"]).at(asked["version"]).read_through(asked.get("dataset"))
    return connect(version, settings=LIMITS)


def _open(asked: dict[str, Any]) -> tuple[list[float], Any]:
    return _timed(asked, lambda: _connection(asked).close())


def _bare_connection() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config=LIMITS)


def _bare(asked: dict[str, Any]) -> tuple[list[float], Any]:
    connection = _bare_connection()
    return _timed(asked, lambda: connection.execute(asked["sql"]).fetchall())


def _analysis(asked: dict[str, Any]) -> tuple[list[float], Any]:
    from mctrace.analysis.questions.catalogue import add_scores, narrowed, run_analysis

    connection = _connection(asked)
    add_scores(connection, [])  # as a report without checkpoints does
    trajectories = connection.execute("from drawn_trajectories(1)").fetchall()
    of_one = narrowed(connection, "trajectory_id", [found for (found,) in trajectories])
    with of_one if asked["name"] in _OF_ONE_SNAPSHOT else nullcontext():
        return _timed(asked, lambda: len(run_analysis(connection, asked["name"])))


def _derive(asked: dict[str, Any]) -> tuple[list[float], Any]:
    from mctrace.datasets.derived import derive
    from mctrace.datasets.store.store import open_store

    store = open_store(asked["store"])
    version = store.at(asked["version"]).read_through(asked.get("dataset"))
    recipe = derive.Recipe("bench.sql", asked["sql"])
    names = iter(asked["names"])
    settings = derive._settings
    derive._settings = lambda sql: {**LIMITS, **settings(sql), "threads": min(2, settings(sql)["threads"])}  # type: ignore[assignment, type-var]
    return _timed(
        asked, lambda: derive.derive(store, version, next(names), derive.Derivation(recipe)).num_rows
    )


def _copy(asked: dict[str, Any]) -> tuple[list[float], Any]:
    connection = _bare_connection()
    with tempfile.TemporaryDirectory(dir=asked["scratch"]) as folder:
        file = Path(folder) / "copied.parquet"
        copy = f"copy ({asked['sql']}) to '{file}' (format parquet, compression zstd)"
        return _timed(asked, lambda: connection.execute(copy).fetchall()[0][0])


if __name__ == "__main__":
    main()
