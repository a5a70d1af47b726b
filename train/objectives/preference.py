"""The preference objective: which of two working contexts of one window the frozen model did better with.

The network scores the worse context. Where the better one shows more detail a score should be positive, where
it shows less, negative, and the more so the larger the difference of loss. Terms and stability mechanisms are
those of docs/specification/preference.md#total-objective; like the counterfactual ones, each is a sum divided
by a count that does not depend on scores, so that parts of a batch add up.

Shapes: B contexts, N entries (padded), P pairs.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from mctrace.datasets.batches.batch import Batch
from mctrace.datasets.batches.pair_batch import PairBatch
from mctrace.train.objectives.budget import budget_masses
from mctrace.train.objectives.config import PreferenceConfig
from mctrace.train.objectives.counterfactual import Counts, LossTerms, net_mass
from mctrace.train.objectives.preference_state import PreferenceState


def preference_loss(
    scores_BN: Tensor,
    pairs: PairBatch,
    objective: PreferenceConfig,
    state: PreferenceState,
    counts: Counts | None = None,
) -> LossTerms:
    """L_pref and, each with its weight, the rank hinge, the budget, the KL and the budget smoothing.

    Computed in float32 whatever the scores' dtype. `counts` are those of the larger batch that this one is a
    part of.
    """
    scores_BN = scores_BN.float()
    counts = preference_counts(pairs, objective, state) if counts is None else counts
    scores_PN = scores_BN[pairs.row]
    strength_P = preference_strength(pairs, objective, state)
    previous_BN, known_B = state.previous_scores(pairs.contexts)
    terms = {
        "L_pref": bradley_terry(scores_PN, pairs, strength_P, objective, counts["L_pref"]),
        "L_pref_rank": rank_hinge(scores_PN, pairs, objective.rank_margin, counts["L_pref_rank"]),
        "L_pref_budget": _mean(net_mass_of(scores_BN, pairs.contexts) ** 2, counts["L_pref_budget"]),
        "L_kl": policy_kl(
            previous_BN, scores_BN, known_B, pairs.contexts, objective.temperature, counts["L_kl"]
        ),
        "L_budget_smooth": _mean(
            (net_mass_of(scores_BN, pairs.contexts) - state.net_mass) ** 2, counts["L_pref_budget"]
        ),
    }
    total = (
        terms["L_pref"]
        + objective.rank_weight * terms["L_pref_rank"]
        + objective.budget_weight * terms["L_pref_budget"]
        + objective.kl_weight * terms["L_kl"]
        + objective.budget_smooth_weight * terms["L_budget_smooth"]
    )
    return LossTerms(total, terms)


def preference_counts(
    pairs: PairBatch, objective: PreferenceConfig, state: PreferenceState
) -> dict[str, Tensor]:
    """What `preference_loss` divides its terms by."""
    _, known_B = state.previous_scores(pairs.contexts)
    return {
        "L_pref": _differs(pairs).sum().float(),
        "L_pref_rank": _has_both(pairs).sum().float(),
        "L_pref_budget": pairs.change.new_tensor(float(len(pairs.contexts))),
        "L_kl": known_B.sum().float(),
    }


def preference_strength(pairs: PairBatch, objective: PreferenceConfig, state: PreferenceState) -> Tensor:
    """tanh(|Δ|) [P], Δ the difference of the losses: in nats, or of normalised advantages when that is on.

    Normalised advantages are (adv_delta − mean) / deviation with running mean and deviation, so that their
    difference is Δ / deviation.
    """
    unit = state.adv_deviation if objective.adv_norm_beta else 1.0
    return torch.tanh(pairs.change.abs() / unit)


def bradley_terry(
    scores_PN: Tensor,
    pairs: PairBatch,
    strength_P: Tensor,
    objective: PreferenceConfig,
    count: Tensor | None = None,
) -> Tensor:
    """Mean over pairs of (1/|M|) Σ_{j∈M} softplus(−sign(t_j)·s_j/τ)·|t_j|, M the entries that differ.

    Formula: docs/specification/preference.md#preference-loss. |t_j| is the pair's strength, times
    `collapse_weight` where t_j < 0.
    """
    direction_PN = wanted(pairs)
    weight_PN = direction_PN.abs() * torch.where(direction_PN < 0, objective.collapse_weight, 1.0)
    loss_PN = functional.softplus(-direction_PN * scores_PN / objective.temperature)
    loss_P = (loss_PN * weight_PN).sum(dim=1) / direction_PN.abs().sum(dim=1).clamp(min=1)
    return _mean(loss_P * strength_P, _differs(pairs).sum().float() if count is None else count)


def rank_hinge(scores_PN: Tensor, pairs: PairBatch, margin: float, count: Tensor | None = None) -> Tensor:
    """Mean over pairs of max(0, margin − (mean s over wanted expands − mean s over wanted collapses)).

    Source: docs/specification/preference.md#rank-hinge. Pairs that want both have a vote.
    """
    expand_PN, collapse_PN = wanted(pairs).clamp(min=0), (-wanted(pairs)).clamp(min=0)
    expand_P = (scores_PN * expand_PN).sum(dim=1) / expand_PN.sum(dim=1).clamp(min=1)
    collapse_P = (scores_PN * collapse_PN).sum(dim=1) / collapse_PN.sum(dim=1).clamp(min=1)
    hinge_P = torch.relu(margin - (expand_P - collapse_P)) * _has_both(pairs)
    return _mean(hinge_P, _has_both(pairs).sum().float() if count is None else count)


def policy_kl(
    previous_BN: Tensor,
    scores_BN: Tensor,
    known_B: Tensor,
    batch: Batch,
    temperature: float,
    count: Tensor | None = None,
) -> Tensor:
    """Mean over contexts seen before of the entries' mean KL(σ(s_before/τ) ‖ σ(s/τ)), each a Bernoulli's.

    Formula: docs/specification/preference.md#stability.
    """
    before_BN, now_BN = previous_BN / temperature, scores_BN / temperature
    probability_BN = before_BN.sigmoid()
    # log σ and log(1 − σ) by softplus, which stays finite where a probability rounds to 0 or 1.
    yes_BN = functional.softplus(-now_BN) - functional.softplus(-before_BN)
    no_BN = functional.softplus(now_BN) - functional.softplus(before_BN)
    kl_BN = (probability_BN * yes_BN + (1 - probability_BN) * no_BN) * batch.entry_mask
    kl_B = kl_BN.sum(dim=1) / batch.entry_mask.sum(dim=1).clamp(min=1)
    return _mean(kl_B * known_B, known_B.sum().float() if count is None else count)


def net_mass_of(scores_BN: Tensor, batch: Batch) -> Tensor:
    """Each context's (P − N) / (ε + P + N) [B]."""
    return net_mass(*budget_masses(scores_BN, batch))


def wanted(pairs: PairBatch) -> Tensor:
    """[P, N] 1 where a pair wants an expand, −1 where a collapse: towards the better of the two contexts."""
    return pairs.direction * -pairs.change.sign().unsqueeze(1)


def preference_values(scores_BN: Tensor, pairs: PairBatch) -> Mapping[str, float]:
    """What the specification logs of a batch of pairs: `adv_delta_mean` and `_p95` over the variants,
    `preference_agreement`, the share of pairs towards whose better context the scores point on average, and
    `variants_total`, `variants_mean`."""
    adv = torch.cat([pairs.from_adv_delta, pairs.to_adv_delta]).double()
    towards_P = (scores_BN.float()[pairs.row] * wanted(pairs)).sum(dim=1)
    num_groups = len(set(pairs.groups))
    return {
        "adv_delta_mean": float(adv.mean()),
        "adv_delta_p95": float(adv.quantile(0.95)),
        "preference_agreement": float((towards_P > 0).double().mean()),
        "variants_total": float(len(pairs.contexts)),
        "variants_mean": len(pairs.contexts) / max(num_groups, 1),
    }


def _differs(pairs: PairBatch) -> Tensor:
    return wanted(pairs).ne(0).any(dim=1)


def _has_both(pairs: PairBatch) -> Tensor:
    wanted_PN = wanted(pairs)
    return (wanted_PN > 0).any(dim=1) & (wanted_PN < 0).any(dim=1)


def _mean(values: Tensor, count: Tensor) -> Tensor:
    return values.sum() / count.clamp(min=1)
