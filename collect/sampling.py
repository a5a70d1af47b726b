"""Which actions of a trajectory are measured when there are too many, and how likely each one was."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mctrace.context.actions import Action


@dataclass(frozen=True)
class SampledAction:
    """An action to measure and the probability with which it was chosen (1 when all are measured)."""

    action: Action
    inclusion_probability: float


def sample_actions(
    actions: Sequence[Action], max_actions: int | None, generator: np.random.Generator
) -> list[SampledAction]:
    """At most `max_actions`, without replacement, as evenly as the strata (action, node_level) allow.

    Small strata are taken whole and leave their share to the others. The order of `actions` is kept.
    """
    strata: dict[tuple[str, int], list[int]] = defaultdict(list)
    for i, action in enumerate(actions):
        strata[action.kind, action.node.level].append(i)
    if max_actions is None or len(actions) <= max_actions:
        return [SampledAction(action, 1.0) for action in actions]
    sizes = {key: len(members) for key, members in strata.items()}
    if max_actions < len(strata):
        # Not every stratum can have a share; one draw over all keeps every action possible.
        strata, sizes = {("all", 0): list(range(len(actions)))}, {("all", 0): len(actions)}
    quotas = even_quotas(sizes, max_actions)
    chosen: dict[int, float] = {}
    for key, members in sorted(strata.items()):
        picks = generator.choice(len(members), size=quotas[key], replace=False)
        chosen.update({members[pick]: quotas[key] / len(members) for pick in picks})
    return [SampledAction(actions[i], chosen[i]) for i in sorted(chosen)]


def even_quotas(sizes: dict[tuple[str, int], int], total: int) -> dict[tuple[str, int], int]:
    """Water-filling: equal shares, capped by each stratum's size; a remainder goes to the largest strata."""
    quotas = dict.fromkeys(sizes, 0)
    remaining = min(total, sum(sizes.values()))
    while remaining:
        open_strata = sorted(
            (key for key in sizes if quotas[key] < sizes[key]), key=lambda key: (-sizes[key], key)
        )
        share = max(1, remaining // len(open_strata))
        for key in open_strata:
            taken = min(share, sizes[key] - quotas[key], remaining)
            quotas[key] += taken
            remaining -= taken
    return quotas
