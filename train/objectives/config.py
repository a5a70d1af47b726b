"""Configuration of LensNet's training objectives.

Weights, margins and factors default to those of docs/specification/losses.md#total and
docs/specification/preference.md#settings unless the field says otherwise.
"""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Lt

from mctrace.ranges import NonNegativeFloat, PositiveFloat, PositiveInt, Share, check_ranges

ObjectiveName = Literal["counterfactual", "preference", "mixed"]
Illegality = Literal["mean", "sum"]
Budget = Literal["positions", "specification"]
Units = Literal["actions", "entries"]
RankPairs = Literal["auto", "exact", "sampled"]
Residual = Literal["squares", "huber", "clipped"]
Scope = Literal["snapshot", "batch"]
PreferenceBudget = Literal["positions", "spans"]
Compared = Literal["worse", "both"]
LabelWeights = Literal["equal", "inverse_variance"]


@dataclass(frozen=True)
class PreferenceConfig:
    """Weights of L = L_pref + rank_weight·L_rank + budget_weight·L_budget + the stability terms."""

    section: ClassVar[str] = "train.objective.preference"

    temperature: PositiveFloat = 1.0
    """tau: scale of scores in the preference probability; lower is sharper"""
    collapse_weight: NonNegativeFloat = 1.0
    """weight of entries that should collapse, relative to entries that should expand"""
    rank_weight: NonNegativeFloat = 0.5
    """weight of the hinge between wanted expands and wanted collapses of one context"""
    rank_margin: NonNegativeFloat = 0.1
    """score units by which the mean scores of the two should differ"""
    budget_weight: NonNegativeFloat = 0.1
    """weight of the zero-sum budget term"""
    budget: PreferenceBudget = "positions"
    """positions: the ratio of the counterfactual objective; spans: the squared difference of masses
    weighted by span widths, per token of the context: the specification's"""
    adv_norm_beta: Annotated[float, Ge(0), Lt(1)] = 0.9
    """decay of the running mean and variance that normalise advantages; 0: not normalised, in nats"""
    kl_weight: NonNegativeFloat = 0.0
    """weight of the divergence from a context's previous scores"""
    budget_smooth_weight: NonNegativeFloat = 0.0
    """weight of a context's deviation from the running net mass"""
    budget_smooth_beta: Annotated[float, Ge(0), Lt(1)] = 0.9
    """decay of that running net mass"""
    max_pairs: PositiveInt = 8
    """maximum number of pairs per group of variants"""
    compared: Compared = "worse"
    """contexts of a pair that are scored: the worse, as the specification has it, or both, so that the better
    ones are taught not to move towards the worse"""
    hard_negative_share: Share = 1.0
    """share kept of the pairs without the group's best variant: those of the largest differences"""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class ObjectiveConfig:
    """The objective, and the weights of L_reg + rank_weight·L_rank + budget_weight·L_budget + L_illegal."""

    section: ClassVar[str] = "train.objective"

    name: ObjectiveName = "counterfactual"
    """counterfactual learns from labels, preference from pairs of variants, mixed from both (not with the
    target `value`)"""
    residual: Residual = "squares"
    """squares of the regression term; huber continues them as a line beyond `residual_limit`, clipped as a
    constant: both lean towards the median of labels with heavy tails"""
    residual_limit: PositiveFloat = 3.0
    """residual, in score units, from which huber and clipped differ from squares"""
    rank_weight: NonNegativeFloat = 0.5
    """weight of the pairwise ranking term"""
    rank_margin: NonNegativeFloat = 0.1
    """score units by which two targets must differ to form a pair"""
    rank_pairs: RankPairs = "auto"
    """exact compares all pairs of a snapshot, sampled each action with `rank_partners` others; auto samples
    only where a snapshot has more than 1,024 actions"""
    rank_scope: Scope = "snapshot"
    """snapshot pairs the actions of one context, batch those of all contexts in a batch, as the specification
    does"""
    rank_partners: PositiveInt = 64
    """partners per action when pairs are sampled, drawn anew at every step"""
    budget_weight: NonNegativeFloat = 0.1
    """weight of the zero-sum budget term, which like illegality is about signs: zero under the target `value`
    """
    budget: Budget = "positions"
    """positions, or specification, which takes its factors 8 and 64 for the tree's real ones and mixes tokens
    with positions"""
    illegal_expand: NonNegativeFloat = 0.3
    """alpha: weight of positive scores on tokens, which cannot expand"""
    illegal_collapse: NonNegativeFloat = 0.3
    """beta: weight of negative scores on `max_level` gists, which cannot collapse"""
    illegality: Illegality = "mean"
    """mean averages over the entries of the level concerned; sum is the specification's. A context has
    hundreds or thousands of tokens, so the sum grows with its length: on the demo's labels gradients are at
    first up to nine times as large (norm 577 against 65), and clipping takes that from the other terms"""
    units: Units = "actions"
    """actions counts a collapse once; entries is the specification's, in which each of its K entries counts
    """
    metrics_scope: Scope = "snapshot"
    """snapshot measures each context by its actions, batch all entries of a batch together, averaged over
    batches, as the specification does"""
    label_weights: LabelWeights = "equal"
    """equal, or inverse_variance, by the labels' standard errors"""
    variance_floor: PositiveFloat = 1.0
    """standard error (score units) at which a label has half the weight of one without error"""
    weigh_by_inclusion: bool = True
    """weight sampled actions by 1 / inclusion probability, so that they represent those not measured. Equal
    probabilities are equal weights"""
    preference_weight: NonNegativeFloat = 1.0
    """weight of the preference objective in `mixed`"""
    preference: PreferenceConfig = field(default_factory=PreferenceConfig)

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def learns_labels(self) -> bool:
        return self.name in ("counterfactual", "mixed")

    @property
    def learns_pairs(self) -> bool:
        return self.name in ("preference", "mixed")
