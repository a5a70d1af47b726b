"""Page of absent blocks: results/absent.json to ABSENT.md."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.absent import GROUPS, RESULT

PAGE = Path(__file__).parent / "ABSENT.md"

_INTRO = """# What leaving blocks out is worth, against truncation

Written by `python -m experiments.absent_page` from `results/absent.json`, which `{command}` wrote; do not
edit.

Nats per token better than truncation on the next tokens until a refocus, positive is better, with 95%
bootstrap intervals paired by document: {documents}. {refocuses} refocuses a document; every policy
starts from truncation, inserts absent blocks and drops shown ones. LensNet and a linear network learned from
exact labels of {labels:,} inserts and drops at {budget} entries, with and without word matches
(`train.network.match_words`); at other budgets the same checkpoints run. `hindsight` and `told` know what
comes next, `full` shows everything.
"""
_NLL = """
Truncation's own loss at {budget} entries: {losses} nats per token.
"""


def page(result: Mapping[str, Any]) -> str:
    """The whole page as Markdown."""
    counts = ", ".join(f"{number} {kind}" for kind, number in result["documents"].items())
    parts = [
        _INTRO.format(
            command=result["command"],
            documents=counts,
            refocuses=result["scale"]["refocuses"],
            labels=sum(row["labels"] for row in result["labels"]),
            budget=result["budget"],
        )
    ]
    budgets = {str(result["budget"]): result["against_truncation"], **result["other_budgets"]}
    for budget in sorted(budgets, key=int):
        parts += [f"## {int(budget):,} entries of a working context\n", "\n".join(_rows(budgets[budget])), ""]
    losses = ", ".join(f"{found['mean']:.3f} on {kind}" for kind, found in result["truncation_nll"].items())
    return "\n".join(parts) + _NLL.format(budget=result["budget"], losses=losses)


def _rows(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Iterator[str]:
    """A table with the best policy on recall documents first."""
    kinds = list(GROUPS)
    yield f"| policy | {' | '.join(kinds)} |"
    yield f"| --- |{' --- |' * len(kinds)}"
    for name, gains in sorted(found.items(), key=lambda item: -item[1][kinds[0]]["mean"]):
        yield f"| {name} | {' | '.join(_cell(gains[kind]) for kind in kinds)} |"


def _cell(gain: Mapping[str, float]) -> str:
    return f"{gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"


def main() -> None:
    PAGE.write_text(page(json.loads(RESULT.read_text())), encoding="utf-8")


if __name__ == "__main__":
    main()
