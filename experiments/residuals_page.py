"""Page of the comparison of residuals: results/residuals.json to RESIDUALS.md."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.residuals import DECIDING, RESULT, SQUARES
from experiments.result_files import markdown_table, signed_interval

HERE = Path(__file__).parent

_INTRO = """# Residuals for labels with heavy tails

Written by `make residuals` from `results/residuals.json`; do not edit. The protocol is the docstring of
`experiments/residuals.py`, written before the first run.

The regression term takes squares of residuals, or continues them as a line (`huber`) or a constant
(`clipped`) beyond {limit:g} score units. The target is `value`, the labels are those of `make absent`:
{train} for training,
{test} held out. The default network, {steps} steps, means over {seeds} seeds, 95% bootstrap
intervals paired by document.
"""


def page(result: Mapping[str, Any]) -> str:
    """The whole page as Markdown."""
    splits = {row["split"]: row for row in result["measured"]}
    size = "{labels:,} labels from {documents:,} documents"
    intro = _INTRO.format(
        limit=result["residual_limit"], train=size.format(**splits["train"]),
        test=size.format(**splits["test"]), steps=result["scale"]["steps"], seeds=result["seeds"],
    )  # fmt: skip
    measures = list(result["measures"])
    names = list(result["measures"][DECIDING[0]])
    held_out = [
        [name, *(signed_interval(result["measures"][one][name]) for one in measures)] for name in names
    ]
    less = [
        [f"{name} less {SQUARES}", *(signed_interval(found[one]) for one in measures)]
        for name, found in result["differences"].items()
    ]
    return "\n".join(
        [
            intro,
            markdown_table(["residual", *measures], [*held_out, *less]),
            f"By the protocol the default is **`{result['decision']}`**. Errors (`mse`) decide nothing.\n",
        ]
    )


def main() -> None:
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    (HERE / "RESIDUALS.md").write_text(page(result), encoding="utf-8")


if __name__ == "__main__":
    main()
