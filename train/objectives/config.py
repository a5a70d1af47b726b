"""What LensNet is trained to do, as frozen values with their ranges checked on the spot.

Weights, margins and factors are those of docs/specification/losses.md#total and
docs/specification/preference.md#settings unless the field says otherwise.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

from mctrace.errors import ConfigError
from mctrace.ranges import check_choice, check_range

ObjectiveName = Literal["counterfactual", "preference", "mixed"]
Illegality = Literal["mean", "sum"]
Budget = Literal["positions", "specification"]
Units = Literal["actions", "entries"]
RankPairs = Literal["auto", "exact", "sampled"]
LabelWeights = Literal["equal", "inverse_variance"]


@dataclass(frozen=True)
class PreferenceConfig:
    """Weights of L = L_pref + rank_weight·L_rank + budget_weight·L_budget + the stability terms."""

    temperature: float = 1.0
    """tau: lower sharpens what a score says about a preference, higher smooths it"""
    collapse_weight: float = 1.0
    """weight of entries that should collapse, where 1 is that of entries that should expand"""
    rank_weight: float = 0.5
    """weight of the hinge between wanted expands and wanted collapses of one context"""
    rank_margin: float = 0.1
    """score units by which their means should differ"""
    budget_weight: float = 0.1
    """weight of the zero-sum budget term"""
    adv_norm_beta: float = 0.9
    """decay of the running mean and variance by which advantages are normalised; 0: nats as they are"""
    kl_weight: float = 0.0
    """weight of the divergence from a context's previous scores"""
    budget_smooth_weight: float = 0.0
    """weight of a context's deviation from the running net mass"""
    budget_smooth_beta: float = 0.9
    """decay of that running net mass"""
    max_pairs: int = 8
    """maximum number of pairs per group of variants"""
    hard_negative_share: float = 1.0
    """share of the pairs without the group's best variant that stay, those of the largest differences"""

    def __post_init__(self) -> None:
        for name in ("collapse_weight", "rank_weight", "rank_margin", "budget_weight", "kl_weight"):
            check_range(f"train.objective.preference.{name}", getattr(self, name), at_least=0)
        check_range("train.objective.preference.temperature", self.temperature, above=0)
        smooth = "train.objective.preference.budget_smooth_weight"
        check_range(smooth, self.budget_smooth_weight, at_least=0)
        check_range("train.objective.preference.max_pairs", self.max_pairs, at_least=1)
        for name in ("adv_norm_beta", "budget_smooth_beta"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ConfigError(f"train.objective.preference.{name} must be in [0, 1), got {value}")
        share = "train.objective.preference.hard_negative_share"
        check_range(share, self.hard_negative_share, at_least=0, at_most=1)


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of L_reg + rank_weight·L_rank + budget_weight·L_budget + L_illegal, and what else to learn."""

    name: ObjectiveName = "counterfactual"
    """counterfactual learns from labels, preference from pairs of variants, mixed from both (not with the
    target `value`)"""
    rank_weight: float = 0.5
    """weight of the pairwise ranking term"""
    rank_margin: float = 0.1
    """score units by which two targets must differ for their order to be taught"""
    rank_pairs: RankPairs = "auto"
    """exact compares all pairs of a snapshot, sampled each action with `rank_partners` others; auto samples
    only where a snapshot has more than 1,024 actions"""
    rank_partners: int = 64
    """actions that each is compared with when pairs are sampled, drawn anew every step"""
    budget_weight: float = 0.1
    """weight of the zero-sum budget term, which like illegality is about signs: zero under the target `value`
    """
    budget: Budget = "positions"
    """positions, or specification, which takes its factors 8 and 64 for the tree's real ones and mixes tokens
    with positions"""
    illegal_expand: float = 0.3
    """alpha: weight of positive scores on tokens, which cannot expand"""
    illegal_collapse: float = 0.3
    """beta: weight of negative scores on `max_level` gists, which cannot collapse"""
    illegality: Illegality = "mean"
    """mean averages over the entries of the level concerned; sum is the specification's. A context has
    hundreds or thousands of tokens, so the sum grows with its length: on the demo's labels gradients are at
    first up to nine times as large (norm 577 against 65), and clipping takes that from the other terms"""
    units: Units = "actions"
    """actions counts a collapse once; entries is the specification's, in which each of its K entries counts
    """
    label_weights: LabelWeights = "equal"
    """equal, or inverse_variance, by the labels' standard errors"""
    variance_floor: float = 1.0
    """score units of standard error at which a label counts half as much as one without any"""
    weigh_by_inclusion: bool = False
    """let an action that was sampled for measurement stand for those that were not"""
    preference_weight: float = 1.0
    """weight of the preference objective in `mixed`"""
    preference: PreferenceConfig = field(default_factory=PreferenceConfig)

    def __post_init__(self) -> None:
        check_choice("train.objective.name", self.name, get_args(ObjectiveName))
        for name in ("rank_weight", "rank_margin", "budget_weight", "illegal_expand", "illegal_collapse"):
            check_range(f"train.objective.{name}", getattr(self, name), at_least=0)
        check_choice("train.objective.rank_pairs", self.rank_pairs, get_args(RankPairs))
        check_range("train.objective.rank_partners", self.rank_partners, at_least=1)
        check_choice("train.objective.budget", self.budget, get_args(Budget))
        check_choice("train.objective.illegality", self.illegality, get_args(Illegality))
        check_choice("train.objective.units", self.units, get_args(Units))
        check_choice("train.objective.label_weights", self.label_weights, get_args(LabelWeights))
        check_range("train.objective.variance_floor", self.variance_floor, above=0)
        check_range("train.objective.preference_weight", self.preference_weight, at_least=0)

    @property
    def learns_labels(self) -> bool:
        return self.name in ("counterfactual", "mixed")

    @property
    def learns_pairs(self) -> bool:
        return self.name in ("preference", "mixed")
