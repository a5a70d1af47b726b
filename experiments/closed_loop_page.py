"""Page of the closed-loop experiment: results/closed-loop.json to CLOSED_LOOP.md."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.closed_loop import HERE, LEADER, RESULT

_INTRO = """# Do learned scores make better working contexts?

Written by `make closed-loop` from `results/closed-loop.json`; do not edit.

{model} in {dtype}, gists {gists}, K = {block}. Trained on {planned}, {steps} optimiser steps a
network; `on-policy` is {leader} trained again with {led} besides, to which that network
had led. Held-out documents ({corpora}) stream by; once every {block} tokens each policy edits a
working context of at most {w_max} positions over {window} tokens, {refocuses} times a document; hindsight
measures {candidates} candidates exactly. Losses are nats per token of the next {block} tokens, with 95%
bootstrap intervals paired by document. The same context is also read on, up to {horizon} tokens: hindsight
chooses by the first {block} of them alone, so what it gains on the others says how much of its gain outlasts
the tokens that it was chosen on.
{seconds:.0f} minutes of work on {system}, {threads} threads, for what was not there yet.
"""

_FRESH = """## Fresh documents

Dropout, weight decay and the share of plain documents were chosen while looking at loops on the
documents above. What follows are other held-out ones, which no setting was chosen by; without a ceiling.
"""


def page(result: Mapping[str, Any]) -> str:
    """The whole page as Markdown."""
    loop, scale = result["loop"], result["scale"]
    settings = loop["closed_loop"]
    parts = [
        _INTRO.format(
            model=loop["model"]["name"], dtype=loop["model"]["dtype"], gists=loop["gists"]["source"],
            block=loop["block_size"], corpora=", ".join(loop["corpus"]),
            planned=_trained_on(result["measured"]["planned"]), led=_trained_on(result["measured"]["led"]),
            leader=LEADER, steps=scale["steps"], w_max=settings["w_max"], horizon=settings["horizon"],
            window=settings["window"], refocuses=settings["refocuses"], candidates=settings["max_candidates"],
            seconds=result["seconds"] / 60, system=result["machine"]["system"],
            threads=result["machine"]["threads"],
        )
    ]  # fmt: skip
    parts += _groups(loop["groups"])
    parts.append(_FRESH)
    parts += _groups(result["fresh"]["groups"], "fresh, ")
    choices = result["edit_choices"]
    parts.append("## Half of a context collapsed, chosen on one horizon, judged on it and on the next\n")
    parts.append(
        _table(
            ["choice", "cost where chosen", "cost on the next horizon"],
            [
                [choice, _signed(found["chosen_on"]), _signed(found["next"])]
                for choice, found in choices["halves"].items()
            ],
        )
    )
    parts.append("## Together against one by one\n")
    parts.append(_swaps(choices["swaps"]))
    parts.append(
        "## Greed: the allocator against the best edits there are, on small contexts of random scores\n"
    )
    parts.append(
        _table(
            ["with", "cases", "share of the best total reached", "best itself found"],
            [
                [
                    name,
                    str(found["num_cases"]),
                    f"{found['share_of_best']:.1%}",
                    f"{found['share_optimal']:.0%}",
                ]
                for name, found in result["greed"].items()
            ],
        )
    )
    return "\n".join(parts)


def _groups(groups: Mapping[str, Any], kind: str = "") -> Iterator[str]:
    for group, found in groups.items():
        yield f"## {kind}{group}: {found['num_documents']} documents\n"
        yield _policies(found["policies"])
        yield _against(found["policies"])


def _trained_on(measured: Mapping[str, int]) -> str:
    return "{labels:,} labels of {contexts:,} contexts from {documents:,} documents".format(**measured)


def _policies(policies: Mapping[str, Any]) -> str:
    head = ["policy", "NLL", "better than recency", "of hindsight's gain", "on the tokens after those",
            "edits", "swaps", "residency", "budget", "ms per refocus"]  # fmt: skip
    rows = [
        [
            name,
            f"{summary['nll'][0]:.4f}",
            _signed(summary["less_than_recency"]),
            _share(summary["share_of_hindsight"]),
            _signed(summary["less_than_recency_later"]),
            f"{summary['edits']:.2f}",
            f"{summary['swaps']:.2f}",
            "" if summary["residency"] is None else f"{summary['residency']:.0%}",
            f"{summary['budget_use']:.0%}",
            f"{1000 * summary['seconds']:.0f}",
        ]
        for name, summary in policies.items()
    ]
    return _table(head, rows)


def _against(policies: Mapping[str, Any]) -> str:
    others = policies[LEADER]["less_than_others"]
    gains = "; ".join(f"{name} {_signed(gain)}" for name, gain in others.items())
    return f"{LEADER} better than the others: {gains}.\n"


def _swaps(swaps: Mapping[str, Any]) -> str:
    return (
        f"{swaps['num_swaps']} swaps of an expand and a collapse: the sum of both effects is "
        f"{swaps['mean_sum']:+.4f} nats per token, together they gain {swaps['mean_together']:+.4f}; the "
        f"mean absolute gap is {swaps['mean_absolute_gap']:.4f}, the correlation "
        f"{swaps['correlation']:.2f}. The best swap by sums gains {_signed(swaps['greedy_by_sums'])}, the "
        f"best together {_signed(swaps['best_together'])}: believing in sums costs "
        f"{_signed(swaps['lost_by_greed'])}.\n"
    )


def _signed(interval: Sequence[float]) -> str:
    mean, low, high = interval
    return f"{mean:+z.4f} [{low:+z.4f}, {high:+z.4f}]"


def _share(interval: Sequence[float] | None) -> str:
    if interval is None:
        return ""
    mean, low, high = interval
    return f"{mean:.0%} [{low:.0%}, {high:.0%}]"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main() -> None:
    out = Path(HERE / "CLOSED_LOOP.md")
    out.write_text(page(json.loads(RESULT.read_text(encoding="utf-8"))), encoding="utf-8")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
