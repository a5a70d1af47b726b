"""The section `closed_loop` of pipeline.toml."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from mctrace.errors import ConfigError
from mctrace.ranges import NonNegativeInt, PositiveInt, check_ranges
from mctrace.train.networks.config import Price

Baseline = Literal[
    "full", "lod0", "recency", "random", "attention", "similarity", "words", "bm25", "rare_words",
    "influence", "told", "hindsight", "literal_hindsight",
]  # fmt: skip
BASELINES: tuple[str, ...] = get_args(Baseline)
"""Policies that need no checkpoint, described in `policy_registry.py`."""


@dataclass(frozen=True)
class ClosedLoopConfig:
    """Closed loop over held-out documents (`mctrace evaluate --closed-loop`). The defaults suit two cores."""

    section: ClassVar[str] = "closed_loop"

    policies: tuple[Baseline, ...] = (
        "full", "lod0", "recency", "random", "attention", "similarity", "words", "told", "hindsight",
    )  # fmt: skip
    """policies beside the given checkpoints; recency is always among them, since others are compared with it;
    others are literal_hindsight and, where tree.absence is on, bm25, rare_words and influence"""
    w_max: PositiveInt = 384
    """positions that the working context never exceeds, the K tokens until the next refocus included"""
    window: PositiveInt = 3584
    """tokens a context reaches back from its first refocus"""
    refocuses: PositiveInt = 8
    """per document, K tokens apart, the last one a horizon before the document's end"""
    horizon: PositiveInt = 128
    """H, tokens after each refocus whose loss is read besides that of the next K"""
    max_candidates: PositiveInt = 24
    """actions that hindsight measures exactly at a refocus, chosen by a cheap estimate of all"""
    told_edits: PositiveInt = 4
    """most edits per refocus of the policy told; with many it is what perfect retrieval is worth"""
    documents: PositiveInt = 24
    """held-out documents, spread evenly over the corpus paths"""
    skip: NonNegativeInt = 0
    """held-out documents left out before those: fresh ones confirm settings chosen on the first"""
    rebalance: bool = False
    """scale the heavier of a checkpoint's expansion and collapse mass down to the lighter; only under
    signed targets (priced, literal)"""
    price: Price = "searched"
    """whose price a checkpoint with a price head chooses edits by: the shadow price of its values (searched),
    or its own (learned)"""
    seed: NonNegativeInt = 0
    """seed of random policies, of noise on scores and of bootstrap intervals"""

    def __post_init__(self) -> None:
        check_ranges(self)
        if "recency" not in self.policies:
            raise ConfigError(
                f"{self.section}.policies lacks recency, which every other policy is compared with"
            )
