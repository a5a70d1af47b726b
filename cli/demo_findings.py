"""What a demo's own numbers allow to say, in words: `python -m mctrace.cli.demo_findings RUN`.

RUN is the folder of a LensNet's run that `mctrace evaluate` has judged, with and without --closed-loop.
"Clearly" means that 95% intervals do not overlap, which is stricter than a test of the difference.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from mctrace.train.run_files import CLOSED_LOOP_FILE, EVALUATION_FILE

AGREEMENT = "utility_correlation"
_Interval = Mapping[str, float]


def findings(run: Path) -> Iterator[str]:
    """One sentence on agreement with labels, one on contexts, and the largest claim that holds."""
    evaluation = json.loads((run / EVALUATION_FILE).read_text(encoding="utf-8"))
    loop = json.loads((run / CLOSED_LOOP_FILE).read_text(encoding="utf-8"))
    agrees = {name: found[AGREEMENT] for name, found in evaluation["scorers"].items() if AGREEMENT in found}
    (policies,) = list(loop["groups"].values())[:1]
    gains = {name: found["less_than_recency"] for name, found in policies.items() if name != "recency"}
    judged, looped = agrees[run.name]["num_documents"], gains[run.name]["num_documents"]
    yield f"Correlation with measured values, {judged} held-out documents: {_listed(agrees, '.2f')}"
    yield (f"Nats per token better than truncation, {looped} held-out documents: {_listed(gains, '+z.3f')}")
    yield f"So: {_claim(run.name, agrees, gains)}."


def _claim(name: str, agrees: Mapping[str, _Interval], gains: Mapping[str, _Interval]) -> str:
    own = agrees[name]
    beaten = [other for other in ("noise", "recency") if own["low"] > agrees[other]["high"]]
    if beaten:
        above = f"its scores agree with measured values clearly better than {' and '.join(beaten)}"
    elif own["low"] > 0:
        above = "its scores agree with measured values better than chance, not clearly better than recency"
    else:
        above = "on so few labels its scores are not clearly better than noise"
    if gains[name]["low"] > 0:
        loop = "and the contexts that it makes are better than truncation"
    elif gains[name]["high"] < 0:
        loop = "and the contexts that it makes are worse than truncation"
    else:
        loop = "and too few documents were judged to tell whether its contexts are better than truncation"
    there_is = [
        f"{other} {found['mean']:+z.2f}"
        for other, found in gains.items()
        if other != name and found["low"] > max(0, gains[name]["high"])
    ]
    more = f"; more was clearly possible: {', '.join(there_is)}" if there_is else ""
    return f"LensNet was trained for some minutes: {above}, {loop}{more}"


def _listed(found: Mapping[str, _Interval], form: str) -> str:
    """Name, mean and interval of each, the best first."""
    ordered = sorted(found.items(), key=lambda item: -item[1]["mean"])
    return ", ".join(
        f"{name} {one['mean']:{form}} [{one['low']:{form}}, {one['high']:{form}}]" for name, one in ordered
    )


if __name__ == "__main__":
    print("\n".join(findings(Path(sys.argv[1]))))
