"""What development documents decide: the second opponent of each family, and which LensNet is tested."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.proof.question_documents import SEEN
from mctrace.errors import InputError

FAMILIES = ("recall", "ruler", "ordinary")


@dataclass(frozen=True)
class Choices:
    """Names of policies."""

    retrieval: Mapping[str, str]
    """family -> the retrieval with the lowest mean loss there"""
    lensnet: str
    """the one of median loss, the mean over families"""

    def write(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @staticmethod
    def read(file: Path) -> "Choices":
        return Choices(**json.loads(file.read_text(encoding="utf-8")))


def choose(rows: Iterable[Mapping[str, Any]], retrieval: Sequence[str], lensnets: Sequence[str]) -> Choices:
    """The choices from rows of the primary budget. Raises InputError where a family has no documents."""
    losses: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["group"] != SEEN:
            losses[row["family"]][row["policy"]].append(row["nll"])
    mean = {
        family: {policy: float(np.mean(found)) for policy, found in losses[family].items()}
        for family in FAMILIES
    }
    if missing := [family for family in FAMILIES if not mean[family]]:
        raise InputError(f"no development documents of {' and '.join(missing)}: nothing to choose by")
    by_loss = sorted(lensnets, key=lambda name: float(np.mean([mean[family][name] for family in FAMILIES])))
    return Choices(
        {family: min(retrieval, key=lambda name: mean[family][name]) for family in FAMILIES},
        by_loss[len(by_loss) // 2],
    )
