"""What a collection run can be told: the sections of pipeline.toml that `mctrace collect` reads."""

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, cast

from annotated_types import Ge, Le, MinLen

from mctrace.context.actions import ActionKind
from mctrace.errors import ConfigError
from mctrace.ranges import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Share,
    check_range,
    check_ranges,
)

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
MapPolicy = Literal["recency", "random", "lod0", "lensnet"]


@dataclass(frozen=True)
class ModelConfig:
    """The frozen base model."""

    section: ClassVar[str] = "model"

    name: str = "smollm2-135m"
    """alias, local folder or hub id of any Hugging Face causal LM"""
    revision: str | None = None
    """hub revision, e.g. main; a commit hash makes a run repeatable"""
    dtype: Dtype = "auto"
    """float32, bfloat16 or float16; auto is bfloat16 on GPUs, which shifts single labels by about 0.01 nats,
    and float32 elsewhere"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto takes CUDA where there is one"""
    device_map: str | None = None
    """spreads one model over several devices, e.g. auto; overrides `device`"""

    def __post_init__(self) -> None:
        check_ranges(self)

    def in_dtype(self, dtype: str) -> "ModelConfig":
        """The same model in a dtype that was decided. Raises ConfigError for one that there is not."""
        return replace(self, dtype=cast("Dtype", dtype))


@dataclass(frozen=True)
class GistConfig:
    """The gist of K children."""

    section: ClassVar[str] = "gists"

    source: str = "mean"
    """mean, the shipped smollm2-135m-k32, a GistNet folder (config.json and model.safetensors), an entry
    point package.module:attribute, or M positions of a span: extract-M (tokens), kept-M (keys and values)"""
    num_anchors: PositiveInt = 1
    """M of a key-value GistNet's folder (mctrace gist train --kind key_value)"""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class CorpusConfig:
    """Documents to measure, and their splits."""

    section: ClassVar[str] = "corpus"

    paths: tuple[str, ...] = ()
    """files, folders and URIs (s3://…, hf://datasets/…) of .txt, .md, .py, .jsonl, .parquet, .arrow (as
    Hugging Face datasets saves) or .tar (WebDataset), also .gz, .xz or .zst of them; - is standard input;
    stdlib is Python's own standard library, pydoc-topics its reference prose; recall: before any of them
    plants facts in its texts, as in recall:stdlib, recall-development: and recall-test: such in other
    words"""
    text_column: Annotated[str, MinLen(1)] = "text"
    """column of a row's text; without one, input_ids are ready token ids and messages a chat"""
    id_column: Annotated[str, MinLen(1)] | None = None
    """column of a row's own name, e.g. "id": its document's source is then FILE:NAME instead of FILE:LINE; a
    sample of a WebDataset has its key"""
    metadata_columns: tuple[Annotated[str, MinLen(1)], ...] = ()
    """further columns of a row that are kept with its document, e.g. ["language", "license"]; in SQL
    metadata->>'language' of the view documents"""
    limit: Annotated[int, Ge(3)] | None = None
    """maximum number of documents, e.g. 1000; every split gets at least one"""
    min_tokens: PositiveInt = 1024
    """shorter documents are skipped and counted"""
    max_tokens: PositiveInt = 65536
    """longer documents are cut here"""
    seed: NonNegativeInt = 0
    """chooses which documents come first when there is a limit"""
    validation_fraction: Annotated[float, Ge(0.01), Le(0.49)] = 0.15
    """share of the documents in the validation split"""
    test_fraction: Annotated[float, Ge(0.01), Le(0.49)] = 0.15
    """share of the documents in the test split"""
    near_duplicate_threshold: Annotated[float, Ge(0.1), Le(0.95)] = 0.7
    """Jaccard similarity of token 8-grams from which two documents share a split"""
    strict: bool = False
    """stop at a file or line that is not readable as text; otherwise it is counted and skipped"""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_range(f"{self.section}.max_tokens", self.max_tokens, at_least=self.min_tokens)


@dataclass(frozen=True)
class CollectConfig:
    """Trajectories to plan, and what is measured on each."""

    section: ClassVar[str] = "collect"

    policies: Annotated[tuple[MapPolicy, ...], MinLen(1)] = ("recency", "random")
    """how LOD maps are made: recency, random, lod0, lensnet"""
    trajectories_per_document: PositiveInt = 2
    """taken in turn from `policies` (the first by chance), at seeded places of the document"""
    horizon: PositiveInt = 128
    """H, tokens after a cursor whose loss is read"""
    cursors_per_trajectory: PositiveInt = 4
    """R, snapshots that share one LOD map"""
    cursor_stride: PositiveInt = 32
    """tokens between two cursors of a trajectory"""
    last_tokens: PositiveInt | None = None
    """cursors lie among this many last tokens of a document, e.g. 1024, for corpora whose questions stand at
    the end; unset: anywhere"""
    window: PositiveInt = 4096
    """tokens a context reaches back from its first cursor"""
    lod0_window: PositiveInt = 1024
    """tokens the `lod0` policy reaches back, all of them at level 0"""
    recency_level_tokens: Annotated[tuple[NonNegativeInt, ...], MinLen(1)] = (256, 2048)
    """newest tokens kept at level 0, then the next ones at level 1, and so on; the rest is at max_level"""
    max_detail: Literal["gist", "absent"] = "gist"
    """what `recency` shows of text older than its newest tokens: gists, or nothing (absent: truncation)"""
    train_wc_length: PositiveInt = 512
    """positions to which `random` compresses its level-0 window, and that `lensnet` keeps to"""
    lensnet_checkpoint: str = ""
    """checkpoint folder of the policy `lensnet`, e.g. runs/lensnet/best: labels are measured where it leads
    """
    lensnet_refocuses: PositiveInt = 8
    """times `lensnet` refocuses, once every K tokens, before labels are measured"""
    lensnet_temperature: NonNegativeFloat = 0.5
    """noise on its scores, in score units, so that maps near its own are seen too"""
    lensnet_rebalance: bool = False
    """scale the heavier of its expansion and collapse mass down to the lighter; not under the target `value`
    """
    random_variant_iterations: PositiveInt = 3
    """rounds of random edits a `random` map goes through; the first only collapses"""
    num_random_variants: NonNegativeInt = 0
    """random maps per trajectory measured without actions, beside one lod0 baseline (preference data)"""
    protected_tail: NonNegativeInt = 128
    """most recent tokens that never collapse"""
    actions: Annotated[tuple[ActionKind, ...], MinLen(1)] = ("expand", "collapse", "insert", "drop")
    """kinds of actions that are measured and that `random` maps are made by; insert and drop only where
    tree.absence allows them"""
    max_actions: PositiveInt | None = None
    """maximum number of actions measured per trajectory, e.g. 64, sampled evenly over action and node_level;
    unset: all"""
    action_sampling: Literal["even", "overlap", "screened"] = "even"
    """overlap: half of each sample goes to spans that share rare words with the text about to be
    read; screened: to actions whose gradient estimate is large"""
    estimator: Literal["exact", "windowed", "gradient"] = "exact"
    """exact; windowed or gradient: cheaper, calibrated before and audited during a run"""
    estimator_window: NonNegativeInt = 128
    """r, entries after an edit that the windowed estimator recomputes"""
    gradient_segment: PositiveInt | None = None
    """tokens of loss that the gradient estimator differentiates apart, e.g. 32, so that labels can be read at
    shorter horizons; unset: whole horizons"""
    min_audit_spearman: Annotated[float, Ge(-1), Le(1)] = 0.9
    """rank correlation with exact labels below which a windowed run is planned as exact"""
    calibration_actions: PositiveInt = 100
    """actions measured both ways before a windowed or gradient run, as far as the plan has that many"""
    audit_fraction: Share = 0.05
    """share of a windowed or gradient run's actions that are measured exactly as well"""
    drop_controls: bool = False
    """also measure every action's span left out altogether: the value of the text without any gist"""
    joint_edits: NonNegativeInt = 0
    """sets of actions per trajectory that are measured together, to study additivity"""
    joint_size: Annotated[int, Ge(2)] = 2
    """actions of a joint edit"""
    attention_mass: bool = False
    """keep the base model's attention to every entry"""
    batch_tokens: PositiveInt | Literal["auto"] = "auto"
    """entries that run at once; auto: what fits, halved when memory runs out"""
    seed: NonNegativeInt = 0
    """seed of maps, cursors and samples"""

    def __post_init__(self) -> None:
        check_ranges(self)
        if "lensnet" in self.policies and not self.lensnet_checkpoint:
            raise ConfigError(
                f"{self.section}.policies names lensnet: set {self.section}.lensnet_checkpoint to a folder "
                "that 'mctrace train' wrote, like runs/lensnet/best"
            )
        if self.action_sampling == "screened":
            self._check_screening()
        spread = self.cursors_per_trajectory * self.cursor_stride
        key = f"{self.section}.cursors_per_trajectory * {self.section}.cursor_stride"
        check_range(key, spread, at_most=4096)

    def _check_screening(self) -> None:
        if self.max_actions is None:
            raise ConfigError("collect.action_sampling screened needs collect.max_actions, the sample's size")
        if self.estimator != "exact" or self.drop_controls:
            raise ConfigError(
                "collect.action_sampling screened measures its sample exactly: it takes collect.estimator "
                "exact and no collect.drop_controls"
            )


def dense_preset_changes() -> dict[str, Any]:
    """Values of the recipe `dense`: one context of a document, all of its actions by gradient and a tenth of
    them exactly as well. A gradient costs a pass for each cursor, so it is spent on documents instead."""
    return {
        "trajectories_per_document": 1,
        "cursors_per_trajectory": 1,
        "estimator": "gradient",
        "audit_fraction": 0.1,
    }


@dataclass(frozen=True)
class RayConfig:
    """The cluster: one actor holds one model."""

    section: ClassVar[str] = "ray"

    address: str = "local"
    """local starts Ray on this machine, auto finds a running cluster, or HOST:PORT"""
    actors: PositiveInt | Literal["auto"] = 1
    """most actors, one model each, e.g. 8; auto: as many as the cluster holds"""
    num_cpus: Annotated[float, Ge(0.1)] = 1
    """CPUs per actor; its torch uses as many threads"""
    num_gpus: NonNegativeFloat | None = None
    """GPUs per actor, e.g. 2; 0.5 puts two actors on one GPU; unset: one where nodes have GPUs"""
    max_attempts: PositiveInt = 3
    """times a trajectory is tried that raises or kills its actor, before it is quarantined"""
    start_timeout: Annotated[float, Ge(1)] = 300
    """seconds without any actor placed on a node after which the run gives up"""

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def num_planned_actors(self) -> int:
        """Actors to predict for; 1 where that is left to the cluster."""
        return 1 if self.actors == "auto" else self.actors
