"""Configuration of LensNet training: the section `train` of pipeline.toml.

Defaults are those of docs/specification/trainer.md#settings unless the field says otherwise.
"""

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Lt, MinLen

from mctrace.errors import ConfigError
from mctrace.ranges import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Share,
    check_ranges,
)
from mctrace.train.networks.config import NetworkConfig, NetworkName
from mctrace.train.objectives.config import ObjectiveConfig, ObjectiveName, PreferenceConfig

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "bfloat16"]
Decay = Annotated[float, Ge(0), Lt(1)]
Wandb = Literal["off", "offline", "online"]


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW with a linear warm-up, then a cosine decay to zero at `total_steps`."""

    section: ClassVar[str] = "train.optimiser"

    learning_rate: PositiveFloat = 1e-4
    """peak learning rate, reached at the end of the warm-up"""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment"""
    eps: PositiveFloat = 1e-8
    """AdamW's epsilon"""
    weight_decay: NonNegativeFloat = 0.01
    """decoupled weight decay, multiplied by the learning rate"""
    warmup_steps: NonNegativeInt = 1000
    """steps of the linear warm-up; at most `total_steps`"""
    total_steps: PositiveInt = 50_000
    """optimisation steps, one batch each"""
    gradient_clip: PositiveFloat = 1.0
    """maximum global gradient norm; larger gradients are scaled down to it"""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.warmup_steps > self.total_steps:
            raise ConfigError(
                f"{self.section}.warmup_steps must be at most total_steps ({self.total_steps}), "
                f"got {self.warmup_steps}"
            )


@dataclass(frozen=True)
class TrainConfig:
    """Training of a LensNet (`mctrace train`)."""

    section: ClassVar[str] = "train"

    batch_size: PositiveInt = 16
    """snapshots per step"""
    eval_interval: PositiveInt = 500
    """steps between validations; the last step is always validated"""
    save_interval: PositiveInt = 2000
    """steps between checkpoints; the last step is always saved, and the best validation as `best`"""
    keep_last: PositiveInt = 2
    """number of step checkpoints kept on disk; older ones are deleted"""
    log_interval: PositiveInt = 50
    """steps averaged in one telemetry line"""
    seed: NonNegativeInt = 0
    """seed of the network's initial weights, of the order of the data and of dropout"""
    device: Device = "auto"
    """auto, cpu or cuda; auto takes CUDA where there is one"""
    precision: Precision = "auto"
    """float32, bfloat16 or auto: bfloat16 on a CUDA device that has it, else float32. Losses are always
    float32"""
    compile: bool = False
    """compile the network with torch.compile; batches are padded to one of four lengths an octave, so that it
    is compiled once for each"""
    accumulation: PositiveInt = 1
    """parts into which a step's batch is divided to save memory; the step stays the same"""
    patience: NonNegativeInt = 0
    """early stopping: validations in a row without a lower loss after which training ends; 0: never"""
    alert_evaluations: PositiveInt = 3
    """validations in a row with a correlation of the wrong sign before an alert"""
    alert_below: Share = 0.0
    """size of a correlation below which it counts as one of the wrong sign; 0: only signs are watched"""
    log_lens_debug: bool = False
    """log statistics of the scores of every context of the last batch with each telemetry line"""
    log_maps: bool = False
    """log the LOD maps of that batch in characters, with what the scores ask for"""
    wandb: Wandb = "off"
    """off, offline or online: Weights & Biases beside the files; `offline` needs no account"""
    trackio: bool = False
    """Trackio beside the files; its own variables choose where (TRACKIO_DIR, TRACKIO_SPACE_ID)"""
    target: Annotated[str, MinLen(1)] = "value_and_price"
    """value_and_price, value, priced, literal (as the specification has it), or a .sql file: the target
    definition, shipped in `datasets/sql/targets`"""
    where: str = ""
    """SQL condition on the rows of the target to learn from, such as "abs(delta_nll) > stderr"; empty: all"""
    augment: str = ""
    """recipe that makes the labels to learn from of those stored, such as spec_augmentation, or a .sql file
    (a derived dataset that is not kept, drawn by `seed`); empty: labels as they are"""
    pairs_where: str = ""
    """SQL condition on `preference_pairs`, for the objectives that learn from them; empty: all"""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.where and not self.objective.learns_labels:
            raise ConfigError(
                f"{self.section}.where (--where) selects labels, but the preference objective is trained on "
                f"pairs: select those with {self.section}.pairs_where"
            )
        if self.augment and not self.objective.learns_labels:
            raise ConfigError(
                f"{self.section}.augment makes labels, but the preference objective is trained on pairs: "
                "leave it out"
            )
        if self.pairs_where and not self.objective.learns_pairs:
            raise ConfigError(
                f"{self.section}.pairs_where selects pairs, but the counterfactual objective is trained on "
                f"labels: select those with {self.section}.where"
            )


def small_preset(network: NetworkName = "dual_cross_attention") -> TrainConfig:
    """Preset for tens of snapshots on a laptop: a narrow network and a few hundred quick steps.

    Any network memorises so little data within some hundred steps; frequent validation picks `best` before
    that. The linear baseline gets ten times the learning rate: at the network's it is far from converged
    after 400 steps.
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


def specification_preset(objective: ObjectiveName = "counterfactual") -> TrainConfig:
    """The specification's trainer (docs/specification/trainer.md#preset): target, losses, settings, metrics.

    Its optimiser's settings, batch size and intervals of validation and checkpoints are the defaults.
    """
    return TrainConfig(
        augment="" if objective == "preference" else "spec_augmentation",
        keep_last=25,  # all: one every 2,000 of 50,000 steps
        log_interval=100,
        target="literal",
        network=NetworkConfig(match_tail=False),
        objective=ObjectiveConfig(
            name=objective,
            rank_pairs="exact",
            rank_scope="batch",
            budget="specification",
            illegality="sum",
            units="entries",
            metrics_scope="batch",
            preference=PreferenceConfig(budget="spans"),
        ),
    )


def specification_preset_changes(objective: ObjectiveName = "counterfactual") -> dict[str, Any]:
    """The specification preset's values that differ from the defaults, as nested sections."""
    return _changes(asdict(specification_preset(objective)), asdict(TrainConfig()))


def dense_preset_changes() -> dict[str, Any]:
    """Values of the recipe `dense`: labels weigh by their precision, estimates by their calibration's."""
    return {"objective": {"label_weights": "inverse_variance"}}


def small_preset_changes(network: NetworkName) -> dict[str, Any]:
    """The small preset's values that differ from the defaults, as nested sections."""
    return _changes(asdict(small_preset(network)), asdict(TrainConfig()))


def _changes(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    changed = {}
    for key, value in values.items():
        if isinstance(value, dict):
            changed[key] = _changes(value, defaults[key])
        elif value != defaults[key]:
            changed[key] = value
    return changed
