"""Page of the proof: results/proof.json to PROOF.md."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.proof.run import RESULT
from experiments.result_files import RESULTS

PAGE = RESULTS.parent / "PROOF.md"
_INTRO = """# The proof: LensNet against truncation and the best retrieval

Written by `make proof` from `results/proof.json`; do not edit. [The protocol](PROTOCOL.md) says what is
compared, on which documents, and what counts as success.

{standing}

`{command}`: {minutes:.0f} minutes of work on {system}, {threads} threads, for what was not there yet.
"""
_STANDING = {
    (
        "quick",
        "development",
    ): "**These numbers are no proof.** The scale `quick` shows that everything runs, on a handful "
    "of development documents and with networks trained for seconds.",
    ("quick", "test"): "**These numbers are no proof.** The scale `quick` shows that everything runs.",
}
_MEASURED = {
    "development": "**These are development documents**, on which every choice was made: the test documents "
    "are still closed.",
    "test": "These are the test documents, measured once, after every choice was made.",
}
_PRIMARY = """## Primary comparisons

By how much {lensnet} in {budget} of 4,096 positions is better, paired by document, with Holm-corrected
intervals over all comparisons. Exact match in points.
"""
_CURVES = """## All policies and budgets

Outside the primary family: 95% intervals without correction. `better` is against truncation at the same
budget, in nats per token; milliseconds are those of policy and allocator, per refocus.
"""
_FAMILY = {"recall": "recall", "ruler": "RULER-style", "ordinary": "sources and prose"}


def page(result: Mapping[str, Any]) -> str:
    """The page as Markdown."""
    scale, measured = result["scale"]["name"], result["set"]
    return "\n".join(
        [
            _INTRO.format(
                standing=_STANDING.get((scale, measured), _MEASURED[measured]),
                command=result["command"],
                minutes=result["seconds"] / 60,
                **{key: result["machine"][key] for key in ("system", "threads")},
            ),
            *_primary(result),
            *_curves(result["curves"]),
        ]
    )


def _primary(result: Mapping[str, Any]) -> Iterator[str]:
    rows = result["primary"]
    yield _PRIMARY.format(lensnet=rows[0]["lensnet"], budget=rows[0]["budget"])
    yield _table(
        ["documents", "against", "number", "nats per token", "p", "exact match", "p"],
        [
            [
                _FAMILY[row["family"]], row["against"], str(row["nll"]["num_documents"]),
                _compared(row["nll"], 1, 3), f"{row['nll']['p']:.3f}",
                *([_compared(row["exact_match"], 100, 0), f"{row['exact_match']['p']:.3f}"]
                  if row["exact_match"] else ["", ""]),
            ]
            for row in rows
        ],
    )  # fmt: skip


def _curves(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if rows:
        yield _CURVES
    tables: dict[tuple[str, str, int, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        key = (row["family"], row["group"], row["window"], row["budget"])
        tables.setdefault(key, []).append(row)
    for (family, group, window, budget), members in tables.items():
        what = _FAMILY[family] + ("" if group == "all" else f", {group}")
        yield f"### {what}: {budget} of {window:,} positions, {members[0]['documents']} documents\n"
        yield _table(
            ["policy", "nats per token", "better", "exact match", "ms a refocus"],
            [
                [
                    row["policy"], f"{row['nll'][0]:.3f}", _signed(row["gain"], 1, 3),
                    f"{row['exact_match'][0]:.0%}" if row["exact_match"] else "",
                    f"{row['milliseconds']:.1f}",
                ]
                for row in sorted(members, key=lambda row: row["nll"][0])
            ],
        )  # fmt: skip


def _compared(found: Mapping[str, float], unit: float, digits: int) -> str:
    return _signed([found["mean"], found["low"], found["high"]], unit, digits)


def _signed(interval: Sequence[float] | None, unit: float, digits: int) -> str:
    if interval is None:
        return ""
    mean, low, high = (f"{unit * value:+.{digits}f}" for value in interval)
    return f"{mean} [{low}, {high}]"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main() -> None:
    PAGE.write_text(page(json.loads(RESULT.read_text(encoding="utf-8"))), encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
