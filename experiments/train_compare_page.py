"""Page of the training comparison: results/train-compare.json to TRAINING.md."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.train_compare import METRICS, RESULT

HERE = Path(__file__).parent

_INTRO = """# Networks, objectives and targets on the same labels

Written by `python -m experiments.train_compare_page` from `results/train-compare.json`; do not edit.

Every row was trained under the small preset on one store and judged on its {split} split, {snapshots}
snapshots of {documents} documents. A cell is the mean over documents with its 95% bootstrap interval, each
averaged over seeds ({seeds}). Agreement with held-out labels is not the goal, better working contexts
are; and noisy labels keep everybody's agreement low.
"""


def page(result: Mapping[str, Any]) -> str:
    """The whole page as Markdown."""
    first = next(iter(result["judged"].values()))
    parts = [
        _INTRO.format(
            split=result["split"],
            snapshots=first["num_snapshots"],
            documents=first["num_documents"],
            seeds=result["seeds"],
        )
    ]
    for target, judged in result["judged"].items():
        parts += [f"## Target `{target}`\n", _table(list(_rows(target, judged, result["kinds"])))]
    if result["left_out"]:
        parts += ["Left out:\n", *(f"- {kind}: {why}" for kind, why in result["left_out"].items())]
    return "\n".join(parts) + "\n"


def _rows(target: str, judged: Mapping[str, Any], kinds: Mapping[str, Sequence[str]]) -> Iterator[list[str]]:
    yield ["trained", *METRICS]
    runs = {name for names in kinds.values() for name in names}
    for kind, names in kinds.items():
        if kind.startswith(f"{target}: "):
            scorers = [judged["scorers"][name] for name in names]
            yield [kind.removeprefix(f"{target}: "), *(_cell(scorers, metric) for metric in METRICS)]
    for name, scorer in judged["scorers"].items():
        if name not in runs:
            yield [f"*{name}*", *(_cell([scorer], metric) for metric in METRICS)]


def _cell(scorers: Sequence[Mapping[str, Sequence[float]]], metric: str) -> str:
    found = [scorer[metric] for scorer in scorers if metric in scorer]
    if not found:
        return ""
    mean, low, high = map(fmean, zip(*found, strict=True))
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main() -> None:
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    (HERE / "TRAINING.md").write_text(page(result), encoding="utf-8")


if __name__ == "__main__":
    main()
