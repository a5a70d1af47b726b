"""What a collection run can be told: the sections of pipeline.toml that `mctrace collect` reads."""

from dataclasses import dataclass
from typing import Literal

from mctrace.errors import ConfigError
from mctrace.ranges import check_choice, check_range

POLICIES = ("recency", "random", "lod0", "lensnet")


@dataclass(frozen=True)
class ModelConfig:
    """The frozen base model."""

    name: str = "smollm2-135m"
    """alias, local folder or hub id of any Hugging Face causal LM"""
    revision: str | None = None
    """hub revision, e.g. main; a commit hash makes a run repeatable"""
    dtype: str = "float32"
    """float32, bfloat16 or float16; bfloat16 shifts single labels by about 0.01 nats"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto takes CUDA where there is one"""
    device_map: str | None = None
    """spreads one model over several devices, e.g. auto; overrides `device`"""

    def __post_init__(self) -> None:
        check_choice("model.dtype", self.dtype, ("float32", "bfloat16", "float16"))


@dataclass(frozen=True)
class GistConfig:
    """The gist of K children."""

    source: str = "mean"
    """mean, the shipped smollm2-135m-k32, a GistNet folder (config.json and model.safetensors), or an entry
    point package.module:attribute"""


@dataclass(frozen=True)
class CorpusConfig:
    """Documents to measure, and their splits."""

    paths: tuple[str, ...] = ()
    """files, folders and URIs (s3://…) of .txt, .md, .py, .jsonl or .parquet, also .gz, .xz or .zst; - is
    standard input; stdlib is Python's own standard library, pydoc-topics its reference prose; recall: before
    any of them plants facts in its texts, as in recall:stdlib"""
    text_column: str = "text"
    """column of a row's text; without one, input_ids are ready token ids and messages a chat"""
    limit: int | None = None
    """maximum number of documents, e.g. 1000; every split gets at least one"""
    min_tokens: int = 1024
    """shorter documents are skipped and counted"""
    max_tokens: int = 65536
    """longer documents are cut here"""
    seed: int = 0
    """chooses which documents come first when there is a limit"""
    validation_fraction: float = 0.15
    """share of the documents in the validation split"""
    test_fraction: float = 0.15
    """share of the documents in the test split"""
    near_duplicate_threshold: float = 0.7
    """Jaccard similarity of token 8-grams from which two documents share a split"""
    strict: bool = False
    """stop at a file or line that is not readable as text; otherwise it is counted and skipped"""

    def __post_init__(self) -> None:
        if self.limit is not None:
            check_range("corpus.limit", self.limit, at_least=3)
        check_range("corpus.min_tokens", self.min_tokens, at_least=1)
        check_range("corpus.max_tokens", self.max_tokens, at_least=self.min_tokens)
        check_range("corpus.validation_fraction", self.validation_fraction, 0.01, 0.49)
        check_range("corpus.test_fraction", self.test_fraction, 0.01, 0.49)
        check_range("corpus.near_duplicate_threshold", self.near_duplicate_threshold, 0.1, 0.95)


@dataclass(frozen=True)
class CollectConfig:
    """Trajectories to plan, and what is measured on each."""

    policies: tuple[str, ...] = ("recency", "random")
    """how LOD maps are made: recency, random, lod0, lensnet"""
    trajectories_per_document: int = 2
    """taken in turn from `policies` (the first by chance), at seeded places of the document"""
    horizon: int = 128
    """H, tokens after a cursor whose loss is read"""
    cursors_per_trajectory: int = 4
    """R, snapshots that share one LOD map"""
    cursor_stride: int = 32
    """tokens between two cursors of a trajectory"""
    last_tokens: int | None = None
    """cursors lie among this many last tokens of a document, e.g. 1024, for corpora whose questions stand at
    the end; unset: anywhere"""
    window: int = 4096
    """tokens a context reaches back from its first cursor"""
    lod0_window: int = 1024
    """tokens the `lod0` policy reaches back, all of them at level 0"""
    recency_level_tokens: tuple[int, ...] = (256, 2048)
    """newest tokens kept at level 0, then the next ones at level 1, and so on; the rest is at max_level"""
    train_wc_length: int = 512
    """positions to which `random` compresses its level-0 window, and that `lensnet` keeps to"""
    lensnet_checkpoint: str = ""
    """checkpoint folder of the policy `lensnet`, e.g. runs/lensnet/best: labels are measured where it leads
    """
    lensnet_refocuses: int = 8
    """times `lensnet` refocuses, once every K tokens, before labels are measured"""
    lensnet_temperature: float = 0.5
    """noise on its scores, in score units, so that maps near its own are seen too"""
    lensnet_rebalance: bool = False
    """scale the heavier of its expansion and collapse mass down to the lighter; not under the target `value`
    """
    random_variant_iterations: int = 3
    """rounds of random edits a `random` map goes through; the first only collapses"""
    num_random_variants: int = 0
    """random maps per trajectory measured without actions, beside one lod0 baseline (preference data)"""
    protected_tail: int = 128
    """most recent tokens that never collapse"""
    max_actions: int | None = None
    """maximum number of actions measured per trajectory, e.g. 64, sampled evenly over action and node_level;
    unset: all"""
    action_sampling: Literal["even", "overlap"] = "even"
    """overlap: half of each sample goes to spans that share rare words with the text about to be read"""
    estimator: Literal["exact", "windowed"] = "exact"
    """exact, or windowed: cheaper, calibrated before and audited during a run"""
    estimator_window: int = 128
    """r, entries after an edit that the windowed estimator recomputes"""
    min_audit_spearman: float = 0.9
    """rank correlation with exact labels below which a windowed run is planned as exact"""
    audit_fraction: float = 0.05
    """share of a windowed run's actions that are measured exactly as well"""
    drop_controls: bool = False
    """also measure every action's span left out altogether: the value of the text without any gist"""
    joint_edits: int = 0
    """sets of actions per trajectory that are measured together, to study additivity"""
    joint_size: int = 2
    """actions of a joint edit"""
    attention_mass: bool = False
    """keep the base model's attention to every entry"""
    batch_tokens: int | Literal["auto"] = "auto"
    """entries that run at once; auto: what fits, halved when memory runs out"""
    seed: int = 0
    """seed of maps, cursors and samples"""

    def __post_init__(self) -> None:
        if not self.policies:
            check_choice("collect.policies", "", POLICIES)
        for policy in self.policies:
            check_choice("collect.policies", policy, POLICIES)
        if "lensnet" in self.policies and not self.lensnet_checkpoint:
            raise ConfigError(
                "collect.policies names lensnet: set collect.lensnet_checkpoint to a folder that "
                "'mctrace train' wrote, like runs/lensnet/best"
            )
        check_range("collect.lensnet_refocuses", self.lensnet_refocuses, at_least=1)
        check_range("collect.lensnet_temperature", self.lensnet_temperature, at_least=0)
        for key in ("trajectories_per_document", "horizon", "cursors_per_trajectory", "cursor_stride"):
            check_range(f"collect.{key}", getattr(self, key), at_least=1)
        for key in ("window", "lod0_window", "train_wc_length", "random_variant_iterations"):
            check_range(f"collect.{key}", getattr(self, key), at_least=1)
        for key in ("num_random_variants", "protected_tail"):
            check_range(f"collect.{key}", getattr(self, key), at_least=0)
        if not self.recency_level_tokens:
            raise ConfigError("collect.recency_level_tokens needs at least one number")
        for num_tokens in self.recency_level_tokens:
            check_range("collect.recency_level_tokens", num_tokens, at_least=0)
        for key in ("max_actions", "last_tokens"):
            if getattr(self, key) is not None:
                check_range(f"collect.{key}", getattr(self, key), at_least=1)
        for key in ("estimator_window", "joint_edits"):
            check_range(f"collect.{key}", getattr(self, key), at_least=0)
        check_range("collect.min_audit_spearman", self.min_audit_spearman, -1.0, 1.0)
        check_range("collect.audit_fraction", self.audit_fraction, 0.0, 1.0)
        check_range("collect.joint_size", self.joint_size, at_least=2)
        if self.batch_tokens != "auto":
            check_range("collect.batch_tokens", self.batch_tokens, at_least=1)
        spread = self.cursors_per_trajectory * self.cursor_stride
        check_range("collect.cursors_per_trajectory * collect.cursor_stride", spread, at_most=4096)


@dataclass(frozen=True)
class RayConfig:
    """The cluster: one actor holds one model."""

    address: str = "local"
    """local starts Ray on this machine, auto finds a running cluster, or HOST:PORT"""
    actors: int = 1
    """number of actors, one model each"""
    num_cpus: float = 1
    """CPUs per actor; its torch uses as many threads"""
    num_gpus: float = 0
    """GPUs per actor"""
    max_attempts: int = 3
    """times a trajectory is tried when its actor dies"""

    def __post_init__(self) -> None:
        check_range("ray.actors", self.actors, at_least=1)
        check_range("ray.num_cpus", self.num_cpus, at_least=0.1)
        check_range("ray.num_gpus", self.num_gpus, at_least=0)
        check_range("ray.max_attempts", self.max_attempts, at_least=1)
