"""Gradients of one training step of a LensNet: any objective, a batch in parts, any number of workers.

The divisors of the terms are first summed over all parts of all workers. Losses and gradients of the parts
then add up to those of the whole batch, however it is divided.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mctrace.datasets.batches.padded_batch import Batch, PairBatch
from mctrace.train.data_parallel import ProcessGroup
from mctrace.train.networks.focus import Focus, Scores, unmasked_scores
from mctrace.train.networks.lensnet import LensNet
from mctrace.train.objectives.budget import asked_rooms
from mctrace.train.objectives.config import ObjectiveConfig
from mctrace.train.objectives.counterfactual import (
    Counts,
    LossTerms,
    counterfactual_counts,
    counterfactual_loss,
)
from mctrace.train.objectives.preference import net_mass_of, preference_counts, preference_loss
from mctrace.train.objectives.preference_state import PreferenceState


@dataclass(frozen=True)
class Examples:
    """One part of a batch: labelled snapshots, pairs of contexts, or both for the mixed objective."""

    labels: Batch | None = None
    pairs: PairBatch | None = None

    def to(self, device: torch.device | str) -> "Examples":
        return replace(
            self,
            labels=self.labels.to(device) if self.labels else None,
            pairs=self.pairs.to(device) if self.pairs else None,
        )


@dataclass(frozen=True)
class ScoredExamples:
    """Examples with their detached scores, for telemetry."""

    examples: Examples
    label_scores: Scores | None
    pair_scores_BN: Tensor | None


class LensNetGradients:
    """Computes the gradient of a whole batch into a network's parameters."""

    def __init__(
        self,
        network: LensNet,
        objective: ObjectiveConfig,
        *,
        bfloat16: bool = False,
        compiled: Callable[..., Scores] | None = None,
        workers: ProcessGroup | None = None,
    ) -> None:
        """`compiled` is the network in a faster form (`compiled_network`)."""
        self.network = network
        self._forward = network if compiled is None else compiled
        self.objective = objective
        self.state = PreferenceState(objective.preference)
        self.last: ScoredExamples | None = None
        self._device = next(network.parameters()).device
        self.bfloat16 = bfloat16
        self._workers = workers or ProcessGroup()

    def __call__(self, parts: Sequence[Examples]) -> dict[str, float]:
        """Backward pass through every part; returns the whole batch's `loss` and terms as numbers.

        `parts` are this worker's; empty when the batch has fewer examples than there are workers.
        """
        parts = [part.to(self._device) for part in parts]
        self._observe_advantages(parts)
        counts = self._counts(parts)
        names = self._term_names(counts)
        totals = {name: torch.zeros((), device=self._device) for name in names}
        scored = [self._part(part, counts, totals) for part in parts]
        self._workers.sum_gradients(self.network)
        self._observe_scores(scored)
        self.last = scored[-1] if scored else None
        values = torch.stack(list(self._workers.sum_scalars(totals).values())).tolist()
        return dict(zip(names, values, strict=True))

    def _part(self, part: Examples, counts: Counts, totals: dict[str, Tensor]) -> ScoredExamples:
        label_scores = self._scores(part.labels) if part.labels else None
        pair_scores = self._pair_scores(part.pairs.contexts) if part.pairs else None
        found = objective_loss(part, label_scores, pair_scores, self.objective, self.state, counts)
        found.total.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        for name, value in (("loss", found.total), *found.terms.items()):
            totals[name] += value.detach()
        return ScoredExamples(
            part,
            None if label_scores is None else label_scores.detach(),
            None if pair_scores is None else pair_scores.detach(),
        )

    def _scores(self, batch: Batch) -> Scores:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.bfloat16):
            scores: Scores = self._forward(batch, asked_rooms(batch))
            return scores

    def _pair_scores(self, batch: Batch) -> Tensor:
        return one_score(self._scores(batch), batch)

    def _term_names(self, counts: Counts) -> list[str]:
        """Terms that are computed, the same on every worker."""
        labels = ["L_reg", "L_rank"] if self.objective.learns_labels else []
        if counts["L_budget"] > 0:
            labels += ["L_budget", "L_illegal"]
        pairs = ["L_pref", "L_pref_rank", "L_pref_budget", "L_kl", "L_budget_smooth"]
        return ["loss", *labels, *(pairs if self.objective.learns_pairs else [])]

    def _counts(self, parts: Sequence[Examples]) -> Counts:
        zero = torch.zeros((), device=self._device)
        sums = dict.fromkeys(COUNT_NAMES, zero)
        for part in parts:
            has_price = self.network.price_head is not None
            for name, value in part_counts(part, self.objective, self.state, has_price=has_price).items():
                sums[name] = sums[name] + value
        return self._workers.sum_scalars(sums)

    def _observe_advantages(self, parts: Sequence[Examples]) -> None:
        if not self.objective.learns_pairs:
            return
        mine = [
            value
            for part in parts
            if part.pairs
            for value in torch.cat([part.pairs.from_adv_delta, part.pairs.to_adv_delta]).tolist()
        ]
        self.state.observe_advantages([value for found in self._workers.all_gather(mine) for value in found])

    def _observe_scores(self, scored: Sequence[ScoredExamples]) -> None:
        """Update the preference state with all workers' scores, in the order of the workers."""
        if not self.objective.learns_pairs:
            return
        scores = scores_by_snapshot(scored) if self.objective.preference.kl_weight else {}
        mine = (scores, [mass for one in scored for mass in _net_masses(one)])
        found = self._workers.all_gather(mine)
        self.state.observe_scores(
            {name: scores for scores_by_name, _ in found for name, scores in scores_by_name.items()},
            [mass for _, masses in found for mass in masses],
        )


COUNT_NAMES = (
    "L_reg", "L_rank", "L_budget", "illegal_expand", "illegal_collapse",
    "L_pref", "L_pref_rank", "L_pref_budget", "L_kl",
)  # fmt: skip
"""all counts, so that every worker sums the same ones whatever its parts hold"""


def part_counts(
    part: Examples, objective: ObjectiveConfig, state: PreferenceState, *, has_price: bool = False
) -> dict[str, Tensor]:
    """The divisors of the terms of `part` alone."""
    of_labels = counterfactual_counts(part.labels, objective, has_price=has_price) if part.labels else {}
    of_pairs = preference_counts(part.pairs, objective.preference, state) if part.pairs else {}
    return {**of_labels, **of_pairs}


def objective_loss(
    part: Examples,
    label_scores: Scores | None,
    pair_scores_BN: Tensor | None,
    objective: ObjectiveConfig,
    state: PreferenceState,
    counts: Counts | None = None,
) -> LossTerms:
    """The objective of `part` with the terms of labels and pairs.

    `mixed` is the counterfactual objective plus `preference_weight` times the preference objective.
    """
    total: Tensor | None = None
    terms: dict[str, Tensor] = {}
    if part.labels is not None and label_scores is not None:
        found = counterfactual_loss(label_scores, part.labels, objective, counts)
        total, terms = found.total, {**found.terms}
    if part.pairs is not None and pair_scores_BN is not None:
        found = preference_loss(pair_scores_BN, part.pairs, objective.preference, state, counts)
        weight = objective.preference_weight if objective.name == "mixed" else 1.0
        total = weight * found.total if total is None else total + weight * found.total
        terms |= found.terms
    assert total is not None, "examples hold labels, pairs or both"
    return LossTerms(total, terms)


def one_score(scores: Scores, batch: Batch) -> Tensor:
    """One score per entry [B, N], of which pairs of contexts teach the sign."""
    return unmasked_scores(scores, batch) if isinstance(scores, Focus) else scores


def scores_by_snapshot(scored: Sequence[ScoredExamples]) -> Mapping[str, Tensor]:
    """Scores [N] of each pair's first context by snapshot id, on the CPU."""
    found: dict[str, Tensor] = {}
    for one in scored:
        if one.examples.pairs is None or one.pair_scores_BN is None:
            continue
        batch = one.examples.pairs.contexts
        lengths = batch.entry_mask.sum(dim=1).tolist()
        for name, length, scores_N in zip(batch.snapshot_ids, lengths, one.pair_scores_BN, strict=True):
            found[name] = scores_N[:length].float().cpu().clone()
    return found


def _net_masses(one: ScoredExamples) -> list[float]:
    if one.examples.pairs is None or one.pair_scores_BN is None:
        return []
    masses: list[float] = net_mass_of(one.pair_scores_BN.float(), one.examples.pairs.contexts).tolist()
    return masses
