"""Configuration of GistNet training and evaluation: `gist_train`, `key_value_train` and `gist_evaluate` of
pipeline.toml.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, MinLen

from mctrace.context.tree import TreeShape
from mctrace.errors import ConfigError
from mctrace.ranges import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Share,
    check_ranges,
)
from mctrace.train.config import Decay, OptimiserConfig

Pooling = Literal["mean", "query", "cls"]
Match = Literal["kl", "nll"]
Placement = Literal["oldest", "random"]
CeilingPlace = Literal["input", "layer", "keys"]
CeilingObjective = Literal["reconstruct", "continuation", "others"]


@dataclass(frozen=True)
class GistNetSizes:
    """Sizes of the network; with `copy_layers` the base model decides those of the layers."""

    section: ClassVar[str] = "gist_train.network"

    pooling: Pooling = "cls"
    """mean, query or cls: the outputs from which the correction to the picks is computed"""
    num_layers: PositiveInt = 2
    """number of layers"""
    copy_layers: bool = True
    """initialise the layers as copies of the base model's first ones, at its width; needs a Llama-like model.
    Otherwise they are initialised at random with the sizes below"""
    width: PositiveInt = 384
    """width of the layers"""
    num_heads: PositiveInt = 6
    """attention heads"""
    feedforward_width: PositiveInt = 1024
    """width of the feed-forward layers"""
    num_picks: PositiveInt = 4
    """number of weighted means of the children, each with its gain, that are summed in a gist"""
    num_levels: PositiveInt = 1
    """1: one set of weights for every level; otherwise one set per level"""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class GistObjectiveConfig:
    """Training windows, the spans replaced by gists, and the loss."""

    section: ClassVar[str] = "gist_train.objective"

    match: Match = "kl"
    """kl: match the frozen model's predictions in full context; nll: predict the tokens themselves"""
    window_tokens: PositiveInt = 640
    """tokens of a window of level-1 gists"""
    near_share: Share = 0.3
    """share of windows in which every block may be replaced and every token after the first gist is scored;
    the others end as in use, with a protected tail followed by the scored tokens"""
    protected_tail: NonNegativeInt = 64
    """tokens before the scored ones that are never replaced"""
    scored_tokens: PositiveInt = 192
    """tokens at the end of a window whose loss counts"""
    coarse_share: Share = 0.06
    """share of windows that begin with a level-2 gist"""
    oldest_share: Share = 0.5
    """share of windows in which the oldest nodes are replaced; random nodes in the others"""
    min_replaced: Share = 0.5
    """smallest share of a window's blocks that are replaced"""
    max_replaced: Share = 1.0
    """largest share of a window's blocks that are replaced, reached at the end of the curriculum"""
    curriculum_steps: NonNegativeInt = 0
    """steps over which windows grow from half their length, and shares from a third of their maximum"""
    neighbour_weight: NonNegativeFloat = 0.0
    """weight of the term that separates neighbouring gists; usually 0.05"""
    neighbour_margin: NonNegativeFloat = 0.2
    """cosine distance beyond which neighbours are not separated further"""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.min_replaced > self.max_replaced:
            raise ConfigError(
                f"gist_train.objective.min_replaced must be at most max_replaced ({self.max_replaced}), "
                f"got {self.min_replaced}"
            )

    def shortest_window(self, tree: TreeShape) -> int:
        """Minimum tokens of a training document: two blocks to replace, the tail, the scored tokens."""
        num_tokens = 2 * tree.block_size + self.protected_tail + self.scored_tokens
        return -(-num_tokens // tree.block_size) * tree.block_size


@dataclass(frozen=True)
class RarityConfig:
    """Pretraining of the picks to select the rarest tokens of a block."""

    section: ClassVar[str] = "gist_train.rarity"

    num_steps: NonNegativeInt = 40
    """number of pretraining steps; 0: start from the mean"""
    blocks_per_step: PositiveInt = 32
    """blocks per step"""
    learning_rate: PositiveFloat = 1e-3
    """learning rate"""
    gain: float = 0.6
    """weight of each pick after pretraining"""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class GistOptimiserConfig(OptimiserConfig):
    """AdamW with a linear warm-up and a cosine decay, with a GistNet's defaults."""

    section: ClassVar[str] = "gist_train.optimiser"

    learning_rate: PositiveFloat = 3e-4
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    warmup_steps: NonNegativeInt = 20
    total_steps: PositiveInt = 600


@dataclass(frozen=True)
class GistTrainConfig:
    """Training of a GistNet for a base model and K (`mctrace gist train`)."""

    section: ClassVar[str] = "gist_train"

    windows_per_step: PositiveInt = 1
    """windows of documents per step"""
    students_per_window: PositiveInt = 1
    """sets of replaced spans per window; all share one teacher pass over the full window"""
    eval_interval: PositiveInt = 100
    """steps between validations; the last step is always validated"""
    num_validation_windows: PositiveInt = 16
    """windows of the validation split that each validation averages over"""
    save_interval: PositiveInt = 100
    """steps between checkpoints; the last step is always saved, and the best validation as `best`"""
    keep_last: PositiveInt = 1
    """step checkpoints that stay on disk; older ones are deleted"""
    log_interval: PositiveInt = 10
    """steps that one line of telemetry averages over"""
    seed: NonNegativeInt = 0
    """seed of the initial weights and of the windows"""
    network: GistNetSizes = field(default_factory=GistNetSizes)
    rarity: RarityConfig = field(default_factory=RarityConfig)
    objective: GistObjectiveConfig = field(default_factory=GistObjectiveConfig)
    optimiser: GistOptimiserConfig = field(default_factory=GistOptimiserConfig)

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class KeyValueOptimiserConfig(OptimiserConfig):
    """AdamW with a linear warm-up and a cosine decay, with a key-value GistNet's defaults."""

    section: ClassVar[str] = "key_value_train.optimiser"

    learning_rate: PositiveFloat = 5e-4
    betas: tuple[Decay, Decay] = (0.9, 0.98)
    warmup_steps: NonNegativeInt = 20
    total_steps: PositiveInt = 340


@dataclass(frozen=True)
class KeyValueTrainConfig:
    """Training of a key-value GistNet (`mctrace gist train --kind key_value`); the defaults are its `cpu`
    preset, some 20 minutes of one core in bfloat16 with SmolLM2-135M."""

    section: ClassVar[str] = "key_value_train"

    rank: PositiveInt = 8
    """rank of the change of each linear layer at anchors"""
    anchors: Annotated[tuple[PositiveInt, ...], MinLen(1)] = (1, 1, 2, 4, 8)
    """positions that a collapsed block keeps; each block's number is drawn from these"""
    window_tokens: PositiveInt = 512
    """tokens of a window without its copies, until `late_after`"""
    late_window_tokens: PositiveInt = 768
    """tokens of a window without its copies, after `late_after` steps; at most the document's"""
    windows_per_step: PositiveInt = 1
    """windows whose gradients are averaged for a step, until `late_after`"""
    late_windows_per_step: PositiveInt = 4
    """windows whose gradients are averaged for a step, after `late_after` steps"""
    windows_per_pass: PositiveInt = 1
    """windows of equal length that run together, as far as memory goes; a GPU is idle with one"""
    late_after: NonNegativeInt = 300
    """steps with small batches, which find the direction; the others are less noisy"""
    curriculum_steps: NonNegativeInt = 150
    """steps over which the collapsed blocks of a window grow from 2 to 4 to their full share"""
    min_replaced: Share = 0.4
    """smallest share of a window's blocks that are collapsed, once the curriculum has ended"""
    max_replaced: Share = 0.7
    """largest share of a window's blocks that are collapsed, once the curriculum has ended"""
    num_copies: PositiveInt = 2
    """collapsed blocks that are repeated at a window's end"""
    copy_skip: NonNegativeInt = 5
    """first tokens of a copy that are not scored, because they say which block it is; its last always is"""
    eval_interval: PositiveInt = 50
    """steps between validations; the last step is always validated"""
    num_validation_windows: PositiveInt = 8
    """windows of the validation split that each validation averages over"""
    save_interval: PositiveInt = 50
    """steps between checkpoints, from which --resume goes on; the best validation is kept as `best`"""
    keep_last: PositiveInt = 1
    """step checkpoints that stay on disk; older ones are deleted"""
    log_interval: PositiveInt = 10
    """steps that one line of telemetry averages over"""
    seed: NonNegativeInt = 0
    """seed of the initial weights and of the windows"""
    optimiser: KeyValueOptimiserConfig = field(default_factory=KeyValueOptimiserConfig)

    def __post_init__(self) -> None:
        check_ranges(self)
        for smaller, larger in (("min_replaced", "max_replaced"), ("window_tokens", "late_window_tokens")):
            if getattr(self, smaller) > getattr(self, larger):
                raise ConfigError(
                    f"{self.section}.{smaller} must be at most {larger} ({getattr(self, larger)}), "
                    f"got {getattr(self, smaller)}"
                )

    def windows_of_step(self, step: int) -> int:
        """Windows whose gradients step `step` (from 1) averages."""
        return self.windows_per_step if step <= self.late_after else self.late_windows_per_step

    def window_tokens_of_step(self, step: int) -> int:
        """Tokens of a window of step `step` (from 1), without its copies."""
        return self.window_tokens if step <= self.late_after else self.late_window_tokens


@dataclass(frozen=True)
class GistEvaluationConfig:
    """Evaluation of a GistNet (`mctrace gist evaluate`)."""

    section: ClassVar[str] = "gist_evaluate"

    context_tokens: PositiveInt = 768
    """N, tokens before the horizon; at least two nodes of the evaluated level"""
    horizons: Annotated[tuple[PositiveInt, ...], MinLen(1)] = (32, 64, 128)
    """tokens after the context over which the loss is averaged"""
    shares: Annotated[tuple[Annotated[float, Gt(0), Le(1)], ...], MinLen(1)] = (0.25, 0.5, 0.75)
    """shares of the context's nodes that are replaced by gists"""
    placements: Annotated[tuple[Placement, ...], MinLen(1)] = ("oldest", "random")
    """which nodes are replaced: oldest, random"""
    levels: Annotated[tuple[Annotated[int, Ge(1), Le(2)], ...], MinLen(1)] = (1, 2)
    """levels of the nodes that are replaced, one level at a time"""
    anchors: Annotated[tuple[PositiveInt, ...], MinLen(1)] = (1, 4)
    """positions a node at which a key-value GistNet is judged"""
    num_copies: PositiveInt = 2
    """collapsed blocks that are repeated after the horizon: the copy test"""
    copy_skip: NonNegativeInt = 5
    """first tokens of a copy that are not read, because they say which block it is; its last always is"""
    protected_tail: NonNegativeInt = 128
    """most recent tokens that are never replaced, as when labels are collected"""
    windows_per_document: PositiveInt = 1
    """windows per document"""
    spans_per_document: NonNegativeInt = 4
    """blocks per window that are replaced one at a time"""
    tolerance: NonNegativeFloat = 0.1
    """nats per token that a single span may cost to count as substitutable"""
    documents_per_corpus: PositiveInt = 16
    """maximum number of held-out documents of each corpus"""
    seed: NonNegativeInt = 0
    """seed of windows, of spans and of bootstrap intervals"""

    def __post_init__(self) -> None:
        check_ranges(self)


def key_value_preset_changes(name: str) -> dict[str, Any]:
    """Values of the preset `cpu`, `gpu` or `long` that differ from the defaults, in nested sections."""
    late = {
        "late_windows_per_step": 16, "late_window_tokens": 2048, "window_tokens": 1024, "windows_per_pass": 8
    }  # fmt: skip
    steps = {"num_validation_windows": 32, "eval_interval": 100, "save_interval": 100}
    return {
        "cpu": {},
        "gpu": {**late, **steps, "optimiser": {"total_steps": 900}},
        "long": {**late, **steps, "rank": 16, "optimiser": {"total_steps": 6000}},
    }[name]


@dataclass(frozen=True)
class GistCeilingConfig:
    """Ladder of ceilings: gists optimised directly, without an encoder (`mctrace gist ceiling`)."""

    section: ClassVar[str] = "gist_ceiling"

    block_sizes: Annotated[tuple[Annotated[int, Ge(2)], ...], MinLen(1)] = (4, 8, 16, 32)
    """K, tokens that one gist stands for"""
    num_vectors: Annotated[tuple[PositiveInt, ...], MinLen(1)] = (1, 4)
    """vectors of a gist"""
    places: Annotated[tuple[CeilingPlace, ...], MinLen(1)] = ("input", "layer", "keys")
    """what they replace: input, the model's inputs; layer, what comes out of its first layers; keys, the keys
    and values of every layer"""
    objectives: Annotated[tuple[CeilingObjective, ...], MinLen(1)] = ("reconstruct", "continuation", "others")
    """what they are optimised for: reconstruct, the span itself; continuation, the very tokens that are
    scored; others, the other visible tokens behind the spans"""
    layer: PositiveInt = 1
    """layers below the vectors at `layer`"""
    num_steps: PositiveInt = 50
    """steps of Adam"""
    learning_rate: PositiveFloat = 0.1
    """of a step, in units of the root mean square of the values that are replaced"""
    window_tokens: PositiveInt = 576
    """tokens of a window with its horizon"""
    horizon: PositiveInt = 64
    """tokens at the end of a window whose loss is measured"""
    share: Annotated[float, Gt(0), Le(1)] = 0.5
    """share of the blocks that give way, at random"""
    protected_tail: NonNegativeInt = 128
    """most recent tokens that never give way"""
    num_copies: PositiveInt = 2
    """collapsed blocks that are repeated after the horizon: the copy test"""
    copy_skip: NonNegativeInt = 5
    """first tokens of a copy that are not read, because they say which block it is; its last always is"""
    documents_per_corpus: PositiveInt = 4
    """maximum number of held-out documents of each corpus"""
    seed: NonNegativeInt = 0
    """seed of the spans and of bootstrap intervals"""

    def __post_init__(self) -> None:
        check_ranges(self)
        smallest = self.horizon + self.protected_tail + 2 * max(self.block_sizes)
        if self.window_tokens < smallest:
            raise ConfigError(
                f"gist_ceiling.window_tokens must be at least {smallest}, the horizon, the protected tail "
                f"and two blocks, got {self.window_tokens}"
            )
