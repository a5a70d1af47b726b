"""The section `closed_loop` of pipeline.toml."""

from dataclasses import dataclass

from mctrace.errors import ConfigError
from mctrace.ranges import check_choice, check_range

BASELINES = (
    "full", "lod0", "recency", "random", "attention", "similarity", "words", "told", "hindsight",
    "literal_hindsight",
)  # fmt: skip
"""Policies that need no checkpoint; `policies.py` describes them."""


@dataclass(frozen=True)
class ClosedLoopConfig:
    """Closed loop over held-out documents (`mctrace evaluate --closed-loop`). The defaults suit two cores."""

    policies: tuple[str, ...] = (
        "full", "lod0", "recency", "random", "attention", "similarity", "words", "told", "hindsight",
    )  # fmt: skip
    """policies beside the given checkpoints; recency is always among them, since others are compared with it;
    literal_hindsight is another one"""
    w_max: int = 384
    """positions that the working context never exceeds, the K tokens until the next refocus included"""
    window: int = 3584
    """tokens a context reaches back from its first refocus"""
    refocuses: int = 8
    """per document, K tokens apart, the last one a horizon before the document's end"""
    horizon: int = 128
    """H, tokens after each refocus whose loss is read besides that of the next K"""
    max_candidates: int = 24
    """actions that hindsight measures exactly at a refocus, chosen by a cheap estimate of all"""
    documents: int = 24
    """held-out documents, spread evenly over the corpus paths"""
    skip: int = 0
    """held-out documents left out before those: fresh ones confirm settings chosen on the first"""
    rebalance: bool = False
    """scale the heavier of a checkpoint's expansion and collapse mass down to the lighter; not under the
    target `value`"""
    seed: int = 0
    """seed of random policies, of noise on scores and of bootstrap intervals"""

    def __post_init__(self) -> None:
        for policy in self.policies:
            check_choice("closed_loop.policies", policy, BASELINES)
        if "recency" not in self.policies:
            raise ConfigError("closed_loop.policies lacks recency, which every other policy is compared with")
        for key in ("w_max", "window", "refocuses", "horizon", "max_candidates", "documents"):
            check_range(f"closed_loop.{key}", getattr(self, key), at_least=1)
        check_range("closed_loop.skip", self.skip, at_least=0)
