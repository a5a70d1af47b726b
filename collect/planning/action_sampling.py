"""Sampling of a trajectory's actions when there are too many, with inclusion probabilities."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mctrace.context.actions import Action
from mctrace.seeding import generator_for

FloatArray = npt.NDArray[np.float64]

_DECIMALS = 9
"""decimals kept of weighted probabilities: a logarithm's last bit differs between processors, a plan must
not"""
_EVEN_SHARE = 0.5
"""of a stratum's sample that is spread evenly whatever the weights: every action stays possible, and its
inverse probability no more than twice what it would be"""
_SCREENED_EVEN_SHARE = 0.1
"""the same where gradient estimates weigh, which rank actions far better than words do: inverse probabilities
up to ten times those of an even sample"""


@dataclass(frozen=True)
class SampledAction:
    """An action to measure and the probability with which it was chosen (1 when all are measured)."""

    action: Action
    inclusion_probability: float | None
    """None of an estimate that only screens: it is no label"""


@dataclass(frozen=True)
class Screening:
    """A sample of `size` actions, drawn by the size of their gradient estimates once these are known."""

    size: int
    key: tuple[str | int, ...]
    """seed of the draw"""

    def sample(self, actions: Sequence[Action], size_A: FloatArray) -> list[SampledAction]:
        """The actions to measure exactly, by `size_A` = |estimate| [A]."""
        generator = generator_for("screening", *self.key)
        return sample_actions(actions, self.size, generator, size_A, even_share=_SCREENED_EVEN_SHARE)


def sample_actions(
    actions: Sequence[Action],
    max_actions: int | None,
    generator: np.random.Generator,
    weight_A: FloatArray | None = None,
    *,
    even_share: float = _EVEN_SHARE,
) -> list[SampledAction]:
    """At most `max_actions`, without replacement, as evenly as the strata (action, node_level) allow.

    Small strata are taken whole and leave their share to the others. Within a stratum all are alike, or
    what `even_share` leaves of its sample goes by `weight_A` (>= 0). The order of `actions` is kept.
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
        if weight_A is None:
            picks = generator.choice(len(members), size=quotas[key], replace=False)
            chosen.update({members[pick]: quotas[key] / len(members) for pick in picks})
        else:
            inclusion_M = inclusion_probabilities(weight_A[members], quotas[key], even_share)
            picks = systematic_sample(inclusion_M, generator)
            chosen.update({members[pick]: float(inclusion_M[pick]) for pick in picks})
    return [SampledAction(actions[i], chosen[i]) for i in sorted(chosen)]


def screening_probabilities(size_M: FloatArray, size: int) -> FloatArray:
    """Probabilities [M] with which a screened sample of `size` holds each action, by |estimate| [M]."""
    return inclusion_probabilities(size_M, size, _SCREENED_EVEN_SHARE)


def inclusion_probabilities(weight_M: FloatArray, size: int, even_share: float = _EVEN_SHARE) -> FloatArray:
    """Of a sample of `size` among M: `even_share` of it evenly, the rest by weights, none above 1 [M].

    What is cut off at 1 goes to the others in their own proportions.
    """
    even_M = np.full(len(weight_M), 1 / len(weight_M))
    total = weight_M.sum()
    share_M = even_share * even_M + (1 - even_share) * (weight_M / total if total > 0 else even_M)
    certain_M = np.zeros(len(weight_M), dtype=bool)
    while True:
        left = size - int(certain_M.sum())
        inclusion_M = np.where(certain_M, 1.0, left * share_M / max(share_M[~certain_M].sum(), 1e-300))
        if not (above_M := ~certain_M & (inclusion_M >= 1)).any():
            return inclusion_M.round(_DECIMALS)
        certain_M |= above_M


def systematic_sample(inclusion_M: FloatArray, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Places drawn without replacement, each with exactly its probability; as many as these sum up to.

    Probabilities are laid end to end in random order and every place that holds a point of a comb of spacing
    1 is drawn (Madow 1949, systematic sampling with unequal probabilities).
    """
    order_M = generator.permutation(len(inclusion_M))
    size = round(float(inclusion_M.sum()))
    edges_M = np.cumsum(inclusion_M[order_M])
    comb = (generator.random() + np.arange(size)) * (edges_M[-1] / size)
    return np.sort(order_M[np.searchsorted(edges_M, comb, side="right")])


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
