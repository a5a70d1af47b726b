"""Page of the preference runs: results/preferences.json to PREFERENCES.md."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.preferences import RESULT
from experiments.result_files import markdown_table, signed_interval

HERE = Path(__file__).parent

_INTRO = """# Runs on pairs of contexts

Written by `make preferences` from `results/preferences.json`, which keeps the telemetry of the runs; do not
edit. {model}, gists {gists}. Pairs for training: {train};
for validation: {validation}.

`preference_corr_mean` should be negative: scores in favour of a move go with a loss that falls. On training
batches it is of the few contexts of one batch, on validation of every move between the variants of a group.
`preference` is the specification's objective, which scores the worse context of a pair; `both` scores both;
`mixed` does, with labels beside.
"""


def page(result: Mapping[str, Any]) -> str:
    """The whole page as Markdown."""
    sizes = {
        row["split"]: "{pairs} of {groups} groups from {documents} documents".format(**row)
        for row in result["measured"]
    }
    parts = [
        _INTRO.format(
            model=result["model"]["name"], gists=result["gists"]["source"], train=sizes["train"],
            validation=sizes["validation"],
        )
    ]  # fmt: skip
    for objective, curves in result["telemetry"].items():
        parts.append(f"## {objective}\n")
        since = result["negative_from"][objective]
        parts.append(" ".join(_since(split, since[split]) for split in curves) + "\n")
        for split, curve in curves.items():
            parts += [f"`{split}/…`:\n", _curve(curve)]
    parts.append(_loop(result))
    return "\n".join(parts)


def _since(split: str, step: float | None) -> str:
    if step is None:
        return f"On {split} batches it is not negative at the end."
    return f"On {split} batches it is negative from step {step:.0f} to the end."


def _curve(curve: Mapping[str, Sequence[float | None]]) -> str:
    rows = zip(*curve.values(), strict=True)
    return markdown_table(list(curve), [[f"{step:.0f}", *map(_number, values)] for step, *values in rows])


def _loop(result: Mapping[str, Any]) -> str:
    settings = result["closed_loop"]
    rows = [
        [name, signed_interval(found["nll"]), signed_interval(found["less_than_recency"])]
        for name, found in result["loop"].items()
    ]
    return (
        f"## Closed loop: {result['loop_documents']} documents\n\n"
        f"At most {settings['w_max']} positions over {settings['window']} tokens, {settings['refocuses']} "
        "refocuses a document; nats per token of the next block, 95% bootstrap intervals. Too few documents "
        "to choose by: that the checkpoints run, and roughly where they stand.\n\n"
        + markdown_table(["policy", "NLL", "better than recency"], rows)
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def main() -> None:
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    (HERE / "PREFERENCES.md").write_text(page(result), encoding="utf-8")


if __name__ == "__main__":
    main()
