"""The preference objective: pairs of working contexts of one window, of which one had the lower loss.

The network scores the worse context. Scores should be positive where the better one shows more detail and
negative where it shows less, with a strength that grows with the difference of losses. Terms and stability
mechanisms are those of docs/specification/preference.md#total-objective. Like the counterfactual terms, each
is a sum divided by a count that does not depend on scores, so parts of a batch add up.

Shapes: B contexts, N entries (padded), P pairs.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from mctrace.datasets.batches.padded_batch import Batch, PairBatch
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
    """L_pref plus weighted rank hinge, budget, KL and budget smoothing terms.

    Computed in float32 whatever the scores' dtype. `counts` are those of the whole batch that this one is a
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
        "L_pref_budget": _mean(
            _imbalance(scores_BN, pairs.contexts, objective) ** 2, counts["L_pref_budget"]
        ),
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
    """The divisors of the terms of `preference_loss`."""
    _, known_B = state.previous_scores(pairs.contexts)
    return {
        "L_pref": _differs(pairs).sum().float(),
        "L_pref_rank": _has_both(pairs).sum().float(),
        "L_pref_budget": pairs.change.new_tensor(float(len(pairs.contexts))),
        "L_kl": known_B.sum().float(),
    }


def preference_strength(pairs: PairBatch, objective: PreferenceConfig, state: PreferenceState) -> Tensor:
    """tanh(|Δ|) [P], Δ the difference of losses in nats, or of normalised advantages (`adv_norm_beta` > 0).

    Normalised advantages are (adv_delta − mean) / deviation with running mean and deviation; their difference
    is Δ / deviation.
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
    direction_PN = wanted_direction(pairs)
    weight_PN = direction_PN.abs() * torch.where(direction_PN < 0, objective.collapse_weight, 1.0)
    loss_PN = functional.softplus(-direction_PN * scores_PN / objective.temperature)
    loss_P = (loss_PN * weight_PN).sum(dim=1) / direction_PN.abs().sum(dim=1).clamp(min=1)
    return _mean(loss_P * strength_P, _differs(pairs).sum().float() if count is None else count)


def rank_hinge(scores_PN: Tensor, pairs: PairBatch, margin: float, count: Tensor | None = None) -> Tensor:
    """Mean over pairs of max(0, margin − (mean s over wanted expands − mean s over wanted collapses)).

    Source: docs/specification/preference.md#rank-hinge. Only pairs that want both count.
    """
    expand_PN, collapse_PN = wanted_direction(pairs).clamp(min=0), (-wanted_direction(pairs)).clamp(min=0)
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
    """Mean over known contexts of the entries' mean KL(σ(s_before/τ) ‖ σ(s/τ)) of Bernoulli variables.

    Formula: docs/specification/preference.md#stability.
    """
    before_BN, now_BN = previous_BN / temperature, scores_BN / temperature
    probability_BN = before_BN.sigmoid()
    # log σ and log(1 − σ) by softplus, which is finite even where a probability rounds to 0 or 1.
    yes_BN = functional.softplus(-now_BN) - functional.softplus(-before_BN)
    no_BN = functional.softplus(now_BN) - functional.softplus(before_BN)
    kl_BN = (probability_BN * yes_BN + (1 - probability_BN) * no_BN) * batch.entry_mask
    kl_B = kl_BN.sum(dim=1) / batch.entry_mask.sum(dim=1).clamp(min=1)
    return _mean(kl_B * known_B, known_B.sum().float() if count is None else count)


def _imbalance(scores_BN: Tensor, batch: Batch, objective: PreferenceConfig) -> Tensor:
    """Expansion less collapse mass of each context [B] (docs/specification/preference.md#total-objective)."""
    if objective.budget == "positions":
        return net_mass_of(scores_BN, batch)
    return (batch.span_width * scores_BN).sum(dim=1) / batch.context_tokens.clamp(min=1)


def net_mass_of(scores_BN: Tensor, batch: Batch) -> Tensor:
    """(P − N) / (ε + P + N) of each context [B]."""
    return net_mass(*budget_masses(scores_BN, batch))


def wanted_direction(pairs: PairBatch) -> Tensor:
    """Wanted direction [P, N] towards the better context: 1 expand, −1 collapse, 0 no difference."""
    return pairs.direction * -pairs.change.sign().unsqueeze(1)


def preference_telemetry(scores_BN: Tensor, pairs: PairBatch) -> Mapping[str, float]:
    """The specification's telemetry of a batch of pairs: that of `variant_telemetry`, and
    `preference_agreement` (share of pairs whose scores point to the better context on average)."""
    towards_P = (scores_BN.float()[pairs.row] * wanted_direction(pairs)).sum(dim=1)
    return {
        **variant_telemetry(pairs.evaluated),
        "preference_agreement": float((towards_P > 0).double().mean()),
    }


def variant_telemetry(evaluated: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """`adv_delta_mean` and `adv_delta_p95` over every variant evaluated, each counted once, their number
    `variants_total` and `variants_mean`, that of a group; `evaluated` is group -> snapshot -> adv_delta."""
    adv = torch.tensor([one for group in evaluated.values() for one in group.values()], dtype=torch.float64)
    return {
        "adv_delta_mean": float(adv.mean()),
        "adv_delta_p95": float(adv.quantile(0.95)),
        "variants_total": float(len(adv)),
        "variants_mean": len(adv) / len(evaluated),
    }


def _differs(pairs: PairBatch) -> Tensor:
    return wanted_direction(pairs).ne(0).any(dim=1)


def _has_both(pairs: PairBatch) -> Tensor:
    wanted_PN = wanted_direction(pairs)
    return (wanted_PN > 0).any(dim=1) & (wanted_PN < 0).any(dim=1)


def _mean(values: Tensor, count: Tensor) -> Tensor:
    return values.sum() / count.clamp(min=1)
