"""What a person can choose about training and judging a GistNet, as frozen values that check their ranges."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from mctrace.context.tree import TreeShape
from mctrace.errors import ConfigError
from mctrace.ranges import check_choice, check_range
from mctrace.train.config import OptimiserConfig

Pooling = Literal["mean", "query", "cls"]
Match = Literal["kl", "nll"]


@dataclass(frozen=True)
class GistNetSizes:
    """Sizes of the network; with `copy_layers` the base model decides those of the layers."""

    pooling: Pooling = "cls"
    """mean, query or cls: which outputs the correction to the picks is made from"""
    num_layers: int = 2
    """number of layers"""
    copy_layers: bool = True
    """start the layers as copies of the base model's first ones, at its width; needs a Llama-like model.
    Otherwise they start at random with the sizes below"""
    width: int = 384
    """width of the layers"""
    num_heads: int = 6
    """attention heads"""
    feedforward_width: int = 1024
    """width of the feed-forward layers"""
    num_picks: int = 4
    """weighted means of the children, each with its gain, whose sum a gist starts from"""
    num_levels: int = 1
    """1: one set of weights for every level; otherwise one set per level"""

    def __post_init__(self) -> None:
        check_choice("gist_train.network.pooling", self.pooling, get_args(Pooling))
        for key in ("num_layers", "width", "num_heads", "feedforward_width", "num_picks", "num_levels"):
            check_range(f"gist_train.network.{key}", getattr(self, key), at_least=1)


@dataclass(frozen=True)
class GistObjectiveConfig:
    """Spans replaced by gists, and what the predictions behind them are held to."""

    match: Match = "kl"
    """kl: to the frozen model's predictions in full context; nll: to the tokens themselves"""
    window_tokens: int = 640
    """tokens of a window of level-1 gists"""
    near_share: float = 0.3
    """share of windows in which every block may be replaced and every token behind the first gist is scored;
    in the others the end of the window is as it is in use: scored tokens behind a protected tail"""
    protected_tail: int = 64
    """tokens before the scored ones that always stand in full"""
    scored_tokens: int = 192
    """tokens at the end of a window whose loss is read"""
    coarse_share: float = 0.06
    """share of windows that begin with a level-2 gist"""
    oldest_share: float = 0.5
    """share of windows in which the oldest nodes are replaced; in the others, nodes anywhere"""
    min_replaced: float = 0.5
    """smallest share of a window's blocks that stand as gists"""
    max_replaced: float = 1.0
    """the largest, reached at the end of the curriculum"""
    curriculum_steps: int = 0
    """steps over which windows grow from half their length and shares from a third of their largest"""
    neighbour_weight: float = 0.0
    """weight of the term that keeps neighbouring gists apart; 0.05 is the usual one"""
    neighbour_margin: float = 0.2
    """cosine distance from which neighbours are far enough apart"""

    def __post_init__(self) -> None:
        check_choice("gist_train.objective.match", self.match, get_args(Match))
        for key in ("window_tokens", "scored_tokens"):
            check_range(f"gist_train.objective.{key}", getattr(self, key), at_least=1)
        check_range("gist_train.objective.protected_tail", self.protected_tail, at_least=0)
        for key in ("near_share", "coarse_share", "oldest_share", "min_replaced", "max_replaced"):
            check_range(f"gist_train.objective.{key}", getattr(self, key), at_least=0, at_most=1)
        if self.min_replaced > self.max_replaced:
            raise ConfigError(
                f"gist_train.objective.min_replaced must be at most max_replaced ({self.max_replaced}), "
                f"got {self.min_replaced}"
            )
        check_range("gist_train.objective.curriculum_steps", self.curriculum_steps, at_least=0)
        check_range("gist_train.objective.neighbour_weight", self.neighbour_weight, at_least=0)
        check_range("gist_train.objective.neighbour_margin", self.neighbour_margin, at_least=0)

    def shortest_window(self, tree: TreeShape) -> int:
        """Tokens a document needs to be trained on: two blocks to replace, the tail, the scored tokens."""
        num_tokens = 2 * tree.block_size + self.protected_tail + self.scored_tokens
        return -(-num_tokens // tree.block_size) * tree.block_size


@dataclass(frozen=True)
class RarityConfig:
    """Quick start: picks that learn to find the rarest tokens of a block."""

    num_steps: int = 40
    """number of steps; 0: start from the mean"""
    blocks_per_step: int = 32
    """blocks per step"""
    learning_rate: float = 1e-3
    """learning rate"""
    gain: float = 0.6
    """weight of each pick at the end of it"""

    def __post_init__(self) -> None:
        check_range("gist_train.rarity.num_steps", self.num_steps, at_least=0)
        check_range("gist_train.rarity.blocks_per_step", self.blocks_per_step, at_least=1)
        check_range("gist_train.rarity.learning_rate", self.learning_rate, above=0)


@dataclass(frozen=True)
class GistOptimiserConfig(OptimiserConfig):
    """AdamW with a linear warm-up and a cosine decay, with a GistNet's defaults."""

    section = "gist_train.optimiser"
    learning_rate: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.99)
    warmup_steps: int = 20
    total_steps: int = 600


@dataclass(frozen=True)
class GistTrainConfig:
    """Training of a GistNet for a base model and K (`mctrace gist train`)."""

    windows_per_step: int = 1
    """windows of documents per step"""
    students_per_window: int = 1
    """patterns of gists a window is seen in; all are held to one pass of the window in full"""
    eval_interval: int = 100
    """steps between validations; the last step is always validated"""
    num_validation_windows: int = 16
    """windows of the validation split that each validation averages over"""
    save_interval: int = 100
    """steps between checkpoints; the last step is always saved, and the best validation as `best`"""
    keep_last: int = 1
    """step checkpoints that stay on disk; older ones are deleted"""
    log_interval: int = 10
    """steps that one line of telemetry averages over"""
    seed: int = 0
    """seed of the initial weights and of the windows"""
    network: GistNetSizes = field(default_factory=GistNetSizes)
    rarity: RarityConfig = field(default_factory=RarityConfig)
    objective: GistObjectiveConfig = field(default_factory=GistObjectiveConfig)
    optimiser: GistOptimiserConfig = field(default_factory=GistOptimiserConfig)

    def __post_init__(self) -> None:
        for key in ("windows_per_step", "students_per_window", "eval_interval", "num_validation_windows"):
            check_range(f"gist_train.{key}", getattr(self, key), at_least=1)
        for key in ("save_interval", "keep_last", "log_interval"):
            check_range(f"gist_train.{key}", getattr(self, key), at_least=1)
        check_range("gist_train.seed", self.seed, at_least=0)


@dataclass(frozen=True)
class GistEvaluationConfig:
    """Evaluation of a GistNet (`mctrace gist evaluate`)."""

    context_tokens: int = 768
    """N, tokens before the horizon; at least two nodes of the level that is judged"""
    horizons: tuple[int, ...] = (32, 64, 128)
    """tokens behind the context over which the loss is averaged"""
    shares: tuple[float, ...] = (0.25, 0.5, 0.75)
    """shares of the context's nodes that stand as gists"""
    protected_tail: int = 128
    """most recent tokens that always stand in full, as when labels are collected"""
    windows_per_document: int = 1
    """windows per document"""
    spans_per_document: int = 4
    """single blocks per window that are replaced alone"""
    tolerance: float = 0.1
    """nats per token a single span may cost to be counted as substitutable"""
    documents_per_corpus: int = 16
    """maximum number of held-out documents of each corpus"""
    seed: int = 0
    """seed of windows, of spans and of bootstrap intervals"""

    def __post_init__(self) -> None:
        for key in ("context_tokens", "windows_per_document", "documents_per_corpus"):
            check_range(f"gist_evaluate.{key}", getattr(self, key), at_least=1)
        for key in ("protected_tail", "spans_per_document", "tolerance", "seed"):
            check_range(f"gist_evaluate.{key}", getattr(self, key), at_least=0)
        for key in ("horizons", "shares"):
            if not getattr(self, key):
                raise ConfigError(f"gist_evaluate.{key} needs at least one number")
        for horizon in self.horizons:
            check_range("gist_evaluate.horizons", horizon, at_least=1)
        for share in self.shares:
            check_range("gist_evaluate.shares", share, above=0, at_most=1)
