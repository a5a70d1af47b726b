"""Page of the comparison of prices: results/learned-price.json to LEARNED_PRICE.md."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.learned_price import GROUPS, LEARNED, RESULT, SEARCHED
from experiments.result_files import markdown_table, signed_interval

HERE = Path(__file__).parent

_INTRO = """# A learned price against a searched one

Written by `make learned-price` from `results/learned-price.json`; do not edit. The protocol is the docstring
of `experiments/learned_price.py`: its rule of decision was written before the first run, of which this is the
second, with values that a price no longer bends (`value` was kept by the first); runs beside the
decision were cut while networks trained, before any held-out figure was computed.

{model}, gists {gists}, exact labels of `make absent` (inserts and drops):
{train} for training,
{test} held out. Every network is the default one under
the small preset with the closed loop's regularisation, {steps} steps, the same batches; means over {seeds}
seeds, 95% bootstrap intervals paired by document. So few documents decide little: an interval that holds 0
leaves the question open.
"""


def page(result: Mapping[str, Any]) -> str:
    """The whole page as Markdown."""
    splits = {row["split"]: row for row in result["measured"]}
    intro = _INTRO.format(
        model=result["model"]["name"], gists=result["gists"]["source"], train=_size(splits["train"]),
        test=_size(splits["test"]), steps=result["scale"]["steps"], seeds=result["seeds"],
    )  # fmt: skip
    return "\n".join([intro, _decision(result), _held_out(result), _gains(result), _loop(result)])


def _size(row: Mapping[str, Any]) -> str:
    return "{labels:,} labels of {contexts:,} contexts from {documents:,} documents".format(**row)


def _decision(result: Mapping[str, Any]) -> str:
    rows = [[name, signed_interval(found)] for name, found in result["differences"].items()]
    checks = "; ".join(f"{name}: {'holds' if ok else 'not shown'}" for name, ok in result["checks"].items())
    return (
        f"## `{LEARNED}` less `{SEARCHED}`\n\n"
        + markdown_table(["compared", "difference"], rows)
        + "\nOf errors (`mse`) less is better, of all others more; the loop's are nats per token saved.\n\n"
        + f"What the protocol asks for: {checks}. By that edits are chosen by the **"
        + f"{'learned' if result['decision'] == LEARNED else 'searched'} price**; the values are the same.\n"
    )


def _held_out(result: Mapping[str, Any]) -> str:
    metrics = list(result["held_out"])
    names = list(result["held_out"][metrics[0]])
    rows = [
        [name, *(signed_interval(result["held_out"][metric].get(name)) for metric in metrics)]
        for name in names
    ]
    return "## Agreement with held-out values of detail\n\n" + markdown_table(["target", *metrics], rows)


def _gains(result: Mapping[str, Any]) -> str:
    rows = [[name, signed_interval(found)] for name, found in result["gains"].items()]
    return (
        "## Gain of one refocus by the labels, nats per token\n\n"
        "The allocator's edits of each held-out context at its own size, among the measured actions, worth "
        "what their labels say.\n\n" + markdown_table(["scores", "gain"], rows)
    )


def _loop(result: Mapping[str, Any]) -> str:
    groups = list(result["loop"])
    counts = result["loop_documents"]
    rows = [
        [name, *(signed_interval(result["loop"][group].get(name)) for group in groups)]
        for name in result["loop"][groups[0]]
    ]
    settings = result["closed_loop"]
    return (
        "## Closed loop, nats per token better than recency\n\n"
        f"At most {settings['w_max']} positions over {settings['window']:,} tokens, {settings['refocuses']} "
        f"refocuses a document. The transformer, on `{SEARCHED}`, has one seed.\n\n"
        + markdown_table(["policy", *(f"{GROUPS[group]} ({counts[group]})" for group in groups)], rows)
    )


def main() -> None:
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    (HERE / "LEARNED_PRICE.md").write_text(page(result), encoding="utf-8")


if __name__ == "__main__":
    main()
