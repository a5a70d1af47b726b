"""`make bench-sql`: the cost of views, derivations and analyses, against SQL over bare Parquet files.

On a synthetic store of a million effects of 128 tokens, and a derived dataset of ten million labels of it,
the same questions go to mctrace's views and to the bare Parquet files in SQL that an expert wrote for them
(`sql_questions.py`). Each side runs in processes of its own, in turns, with two threads and 4 GB. Both must
give the same answer. The last line printed is one JSON object, which is also written to benchmarks/results/;
a ratio above 1 says how much slower mctrace is.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.machine import processor_name
from benchmarks.sql_questions import COPIES, DERIVATIONS, QUESTIONS
from benchmarks.sql_synthetic_store import QUICK, Size, build
from mctrace.analysis.questions import catalogue
from mctrace.datasets.derived.derive import Derivation, derive
from mctrace.datasets.derived.recipe import Recipe
from mctrace.datasets.store.schemas import TABLES
from mctrace.datasets.store.store import Store

RESULTS = Path(__file__).parent / "results"
REPEATS = 3


@dataclass(frozen=True)
class SqlBench:
    """The store under test and where scratch files go."""

    store: Store
    version: int
    folder: Path
    rounds: int

    def run(self, side: str, sql: str = "", dataset: str | None = None, **asked: Any) -> dict[str, Any]:
        """One measurement in a process of its own, without its first repetition, which warms the caches."""
        asked = {
            "side": side, "sql": sql, "dataset": dataset, "store": self.store.location.uri, "version":
            self.version, "scratch": str(self.folder), "repeats": REPEATS, **asked,
        }  # fmt: skip
        command = [sys.executable, "-m", "benchmarks.sql_measurement", json.dumps(asked)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{side} {asked.get('name', sql)}: {done.stderr}")
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        answer["seconds"] = answer["seconds"][1:] or answer["seconds"]
        return answer

    def bare_sql(self, sql: str, dataset: str | None = None) -> str:
        """`sql` with every `{table}` replaced by the list of that table's files."""
        version = self.store.at(self.version).read_through(dataset)
        for table in TABLES:
            sql = sql.replace("{" + table + "}", str(version.table_files(table)))
        return sql


def compare(
    bench: SqlBench, name: str, ours: dict[str, Any], bare: dict[str, Any], check: bool = True
) -> dict[str, Any]:
    """Run both sides in turns; the ratio is of medians over all repetitions of all rounds."""
    seconds: dict[str, list[float]] = {"ours": [], "bare": []}
    peaks: dict[str, float] = {}
    for number in range(bench.rounds):
        answers = {}
        for side, asked in (("ours", ours), ("bare", bare)):
            names = [f"{name}-{number}-{i}" for i in range(REPEATS)]
            done = bench.run(**asked, names=names)
            seconds[side] += done["seconds"]
            peaks[side] = max(peaks.get(side, 0), done["peak_mb"])
            answers[side] = done["answer"]
        if check and not _is_same(answers["ours"], answers["bare"]):
            raise SystemExit(f"{name}: the answers differ\n{answers['ours']}\n{answers['bare']}")
    found = {side: statistics.median(values) for side, values in seconds.items()}
    ratio = found["ours"] / found["bare"]
    print(
        f"{name:32} {found['ours']:8.3f} s  bare {found['bare']:8.3f} s  ratio {ratio:5.2f}  "
        f"peak {peaks['ours']:6.0f} MB  bare {peaks['bare']:6.0f} MB",
        flush=True,
    )
    return {
        f"{name}_seconds": found["ours"], f"{name}_bare_seconds": found["bare"],
        f"{name}_ratio_to_bare": ratio,
        f"{name}_peak_mb": peaks["ours"], f"{name}_bare_peak_mb": peaks["bare"],
    }  # fmt: skip


def _is_same(ours: Any, bare: Any) -> bool:
    if isinstance(ours, list) and isinstance(bare, list):
        return len(ours) == len(bare) and all(map(_is_same, ours, bare))
    if isinstance(ours, (int, float)) and isinstance(bare, (int, float)):
        return math.isclose(ours, bare, rel_tol=1e-6, abs_tol=1e-9)
    return bool(ours == bare)


def run(bench: SqlBench) -> dict[str, Any]:
    """Every comparison and every analysis, with progress printed."""
    result: dict[str, Any] = {}
    for question in QUESTIONS:
        ours = {"side": "ours", "sql": question.ours, "dataset": question.dataset}
        bare = {"side": "bare", "sql": bench.bare_sql(question.bare, question.dataset)}
        result |= compare(bench, question.name, ours, bare)
    for question in DERIVATIONS:
        ours = {"side": "derive", "sql": question.ours, "dataset": question.dataset}
        bare = {"side": "copy", "sql": bench.bare_sql(question.bare, question.dataset)}
        result |= compare(bench, question.name, ours, bare, check=False)
    opened = bench.run("open")
    result["open_seconds"] = statistics.median(opened["seconds"])
    analyses = {}
    for file in sorted(Path(catalogue.__file__).parent.glob("*.sql")):
        done = bench.run("analysis", name=file.stem)
        analyses[file.stem] = {"seconds": statistics.median(done["seconds"]), "peak_mb": done["peak_mb"]}
        print(
            f"{file.stem:32} {analyses[file.stem]['seconds']:8.3f} s  peak {done['peak_mb']:6.0f} MB",
            flush=True,
        )
    result["analyses"] = analyses
    result["slowest_analysis_seconds"] = max(one["seconds"] for one in analyses.values())
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the effects; kept only with --out")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to build the store [a temporary folder]"
    )
    parser.add_argument("--out", type=Path, default=None, help="JSON file [benchmarks/results/sql.json]")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each side of a comparison")
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else Size()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        store = build(f"{scratch}/store", size)
        version = store.at()
        part = derive(store, version, "ten_million", Derivation(Recipe("copies.sql", COPIES)))
        bench = SqlBench(store, store.ledger.version(), Path(scratch), arguments.rounds)
        (num_effects,) = duckdb.execute(
            f"select count(*) from read_parquet({version.table_files('effects')})"
        ).fetchone() or (0,)
        print(f"{num_effects} effects, {part.num_rows['derived_labels']} materialised labels", flush=True)
        result = {
            **run(bench), "num_effects": num_effects,
            "num_materialised_labels": part.num_rows["derived_labels"],
            "rounds": arguments.rounds, "threads": 2, "memory_limit": "4GB", "quick": arguments.quick,
            "machine": {"processor": processor_name(), "cores": os.cpu_count(), "duckdb": duckdb.__version__},
        }  # fmt: skip
    if arguments.out or not arguments.quick:
        out = arguments.out or RESULTS / "sql.json"
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
