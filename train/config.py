"""What a person can choose about training LensNet, as frozen values with their ranges checked on the spot.

Defaults are those of docs/specification/trainer.md#settings unless the field says
otherwise. Every mistake is a `ConfigError` that names the dotted key of `pipeline.toml`.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, get_args

from mctrace.errors import ConfigError
from mctrace.ranges import check_choice, check_range
from mctrace.train.networks.config import NetworkConfig, NetworkName
from mctrace.train.objectives.config import ObjectiveConfig

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "bfloat16"]
Wandb = Literal["off", "offline", "online"]


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW with a linear warm-up, then a cosine decay to zero at `total_steps`."""

    section: ClassVar[str] = "train.optimiser"
    """where in pipeline.toml these values are, as refusals name it"""
    learning_rate: float = 1e-4
    """the peak, reached at the end of the warm-up"""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay of the running mean and of the running square, each in [0, 1)"""
    eps: float = 1e-8
    """AdamW's floor under the root of the running square"""
    weight_decay: float = 0.01
    """decoupled decay per step, times the learning rate"""
    warmup_steps: int = 1000
    """steps of the linear warm-up; at most `total_steps`"""
    total_steps: int = 50_000
    """steps to take; one batch each"""
    gradient_clip: float = 1.0
    """largest global gradient norm; a larger gradient is scaled down to it"""

    def __post_init__(self) -> None:
        check_range(f"{self.section}.learning_rate", self.learning_rate, above=0)
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"{self.section}.betas must be two numbers in [0, 1), got {self.betas}")
        check_range(f"{self.section}.eps", self.eps, above=0)
        check_range(f"{self.section}.weight_decay", self.weight_decay, at_least=0)
        check_range(f"{self.section}.warmup_steps", self.warmup_steps, at_least=0)
        check_range(f"{self.section}.total_steps", self.total_steps, at_least=1)
        check_range(f"{self.section}.gradient_clip", self.gradient_clip, above=0)
        if self.warmup_steps > self.total_steps:
            raise ConfigError(
                f"{self.section}.warmup_steps must be at most total_steps ({self.total_steps}), "
                f"got {self.warmup_steps}"
            )


@dataclass(frozen=True)
class TrainConfig:
    """Training of a LensNet (`mctrace train`)."""

    batch_size: int = 16
    """snapshots per step"""
    eval_interval: int = 500
    """steps between evaluations on the validation split; the last step is always evaluated"""
    save_interval: int = 2000
    """steps between checkpoints; the last step is always saved, and the best evaluation as `best`"""
    keep_last: int = 2
    """step checkpoints that stay on disk; older ones are deleted"""
    log_interval: int = 50
    """steps that one line of telemetry averages over"""
    seed: int = 0
    """seed of the network's initial weights, of the order of the data and of dropout"""
    device: Device = "auto"
    """auto, cpu or cuda; auto takes CUDA where there is one"""
    precision: Precision = "auto"
    """float32, bfloat16 or auto: bfloat16 on a CUDA device that has it, else float32. Losses are always
    float32"""
    accumulation: int = 1
    """parts that a step's batch is run in, one after the other, to save memory; the step is the same"""
    patience: int = 0
    """evaluations in a row without a lower validation loss after which training ends; 0: never"""
    alert_evaluations: int = 3
    """evaluations in a row with a correlation of the wrong sign after which there is an alert"""
    wandb: Wandb = "off"
    """off, offline or online: Weights & Biases beside the files; `offline` needs no account"""
    target: str = "value"
    """value, priced, literal (as the specification has it), or a .sql file: the target definition, shipped in
    `datasets/sql/targets`"""
    where: str = ""
    """SQL condition on the rows of the target to learn from, such as "abs(delta_nll) > stderr"; empty: all"""
    pairs_where: str = ""
    """SQL condition on `preference_pairs`, for the objectives that learn from them; empty: all"""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)

    def __post_init__(self) -> None:
        for name in ("batch_size", "eval_interval", "save_interval", "keep_last", "log_interval"):
            check_range(f"train.{name}", getattr(self, name), at_least=1)
        for name in ("accumulation", "alert_evaluations"):
            check_range(f"train.{name}", getattr(self, name), at_least=1)
        for name in ("seed", "patience"):
            check_range(f"train.{name}", getattr(self, name), at_least=0)
        check_choice("train.device", self.device, get_args(Device))
        check_choice("train.precision", self.precision, get_args(Precision))
        check_choice("train.wandb", self.wandb, get_args(Wandb))
        if self.where and not self.objective.learns_labels:
            raise ConfigError(
                "train.where (--where) chooses labels, and the preference objective learns from pairs: "
                "choose those with train.pairs_where"
            )
        if self.pairs_where and not self.objective.learns_pairs:
            raise ConfigError(
                "train.pairs_where chooses pairs, and the counterfactual objective learns from labels: "
                "choose those with train.where"
            )
        if not self.target:
            raise ConfigError("train.target must name a target definition, got an empty string")


def small_preset(network: NetworkName = "dual_cross_attention") -> TrainConfig:
    """For some tens of snapshots on a laptop: a narrow network and a few hundred quick steps.

    Any network memorises so little data within some hundred steps; this one is evaluated often, so that
    `best` is taken before it does. The linear baseline has no layers whose steps multiply, and is given ten
    times the learning rate: at the network's it is still far from its best after 400 steps.
    """
    return TrainConfig(
        batch_size=8,
        eval_interval=50,
        save_interval=400,
        keep_last=1,
        log_interval=20,
        network=NetworkConfig(name=network, d_lens=64, num_heads=4, num_stacks=2, dropout=0.1),
        optimiser=OptimiserConfig(
            learning_rate=1e-2 if network == "linear" else 1e-3,
            weight_decay=0.1,
            warmup_steps=40,
            total_steps=400,
        ),
    )


def small_preset_changes(network: NetworkName) -> dict[str, Any]:
    """What the small preset says otherwise than the defaults, nested; the rest stays a person's own."""
    return _changes(asdict(small_preset(network)), asdict(TrainConfig()))


def _changes(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    changed = {}
    for key, value in values.items():
        if isinstance(value, dict):
            changed[key] = _changes(value, defaults[key])
        elif value != defaults[key]:
            changed[key] = value
    return changed
