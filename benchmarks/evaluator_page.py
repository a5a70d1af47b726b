"""Page and plots of the evaluator benchmark: results/evaluator-*.json to benchmarks/EVALUATOR.md."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.evaluator import result_name

HERE = Path(__file__).parent
METHODS = {
    "naive": "naive: a full pass per label",
    "prefix": "a cropped cache, per snapshot",
    "one_cursor": "exact, one cursor at a time",
    "exact": "exact, all cursors at once",
}
_INTRO = """# What a label costs

Written by `make bench-evaluator` from `results/evaluator-*.json`; do not edit.

Each case is a LOD map over real text (random tokens for a model with random weights) with R cursors {stride}
tokens apart and a horizon of {horizon} tokens. `level0` shows the last N tokens as they are, `recency` all N
ever coarser. All ways measure the same labels in one process, interleaved; slow ones on a seeded subset of
the actions, scaled by planned FLOPs; medians over rounds. MFU is (2 · parameters · recomputed tokens +
attention and head) / time / the best matrix-multiply rate found in the same run over the model's own layer
shapes, at the model's dtype.
"""


def page(results: Sequence[dict[str, Any]]) -> str:
    """The whole page as Markdown."""
    parts = [_INTRO.format(stride=results[0]["cursor_stride"], horizon=results[0]["horizon"])]
    for result in results:
        machine, name = result["machine"], result_name(result)
        parts.append(
            f"## {result['model']}, {result['dtype']}\n\n{machine['device']}, {machine['threads']} threads, "
            f"torch {machine['torch']}; best matrix-multiply rate {result['gemm_tflops']:.3g} TFLOP/s; "
            f"{result['seconds'] / 60:.0f} minutes"
            f"{'' if result['is_complete'] else ' (cut off: not all cases are here)'}.\n\n"
            f"![seconds per label, and fidelity against speed](results/{name}.svg)\n"
        )
        parts += [_table(_case_rows(result["cases"])), _table(_windowed_rows(result["windowed"]))]
    return "\n".join(parts)


def _case_rows(cases: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    yield [
        "map",
        "N",
        "R",
        "labels",
        *METHODS,
        "exact against naive",
        "against cache",
        "MFU",
        "largest difference",
    ]
    for case in cases:
        seconds = [f"{case['seconds_per_label'][method]:.3g} s" for method in METHODS]
        yield [
            case["map"],
            f"{case['N']:,}",
            str(case["R"]),
            f"{case['num_labels']:,}",
            *seconds,
            f"{case['exact_vs_naive']:.1f}x",
            f"{case['exact_vs_prefix']:.1f}x",
            f"{case['mfu']:.0%}",
            f"{case['max_abs_diff_nats']:.1e} nats",
        ]


def _windowed_rows(rows: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    yield [
        "map",
        "N",
        "R",
        "window",
        "against exact",
        "Spearman",
        "same sign",
        "top tenth found",
        "mean error",
        "actions",
    ]
    for row in rows:
        yield [
            row["map"],
            f"{row['N']:,}",
            str(row["R"]),
            str(row["window"]),
            f"{row['speedup_over_exact']:.1f}x",
            *(_share(row[key]) for key in ("spearman", "sign_agreement", "top_k_recall")),
            f"{row['mae']:.1e} nats",
            str(row["num_actions"]),
        ]


def _share(value: float | None) -> str:
    """A share or correlation; "-" where every label is the same and there is none."""
    return "-" if value is None else f"{value:.3f}"


def _table(rows: Iterator[list[str]]) -> str:
    header, *body = rows
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def plot(result: dict[str, Any]) -> Figure:
    """Seconds per label by case and method; rank correlation against speed of the windowed estimator."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    costs, fidelity = figure.subplots(1, 2, width_ratios=(3, 2))
    cases = result["cases"]
    for offset, (method, label) in zip((-0.3, -0.1, 0.1, 0.3), METHODS.items(), strict=True):
        places = [i + offset for i in range(len(cases))]
        costs.bar(places, [c["seconds_per_label"][method] for c in cases], width=0.19, label=label)
    costs.set_yscale("log")
    costs.set_ylabel("seconds per label")
    names = [f"{c['map']}\nN {c['N']}\nR {c['R']}" for c in cases]
    costs.set_xticks(range(len(cases)), names, fontsize=7)
    costs.legend(fontsize=8, frameon=False)
    for (name, tokens, cursors), rows in _by_case(result["windowed"]).items():
        rows = [row for row in rows if row["spearman"] is not None]
        speed, spearman = [r["speedup_over_exact"] for r in rows], [r["spearman"] for r in rows]
        fidelity.plot(speed, spearman, "o-", label=f"{name}, N {tokens}, R {cursors}", markersize=4)
        for row in rows:
            place = (row["speedup_over_exact"], row["spearman"])
            label = f"r {row['window']}"
            fidelity.annotate(label, place, fontsize=7, xytext=(4, 3), textcoords="offset points")
    fidelity.axhline(0.9, color="grey", linewidth=0.8, linestyle=":")
    fidelity.set_xlabel("times faster than exact")
    fidelity.set_ylabel("Spearman with exact labels")
    fidelity.legend(fontsize=8, frameon=False)
    return figure


def _by_case(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, int, int], list[dict[str, Any]]]:
    found: dict[tuple[str, int, int], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["map"], row["N"], row["R"]), []).append(row)
    return found


def main() -> None:
    files = sorted((HERE / "results").glob("evaluator-*.json"))
    if not files:
        raise SystemExit("no benchmarks/results/evaluator-*.json: run make bench-evaluator")
    results = [json.loads(file.read_text()) for file in files]
    mpl.rcParams["svg.hashsalt"] = "mctrace"  # the same data, the same file
    for result in results:
        out = HERE / "results" / f"{result_name(result)}.svg"
        plot(result).savefig(out, metadata={"Date": None})
    (HERE / "EVALUATOR.md").write_text(page(results))


if __name__ == "__main__":
    main()
