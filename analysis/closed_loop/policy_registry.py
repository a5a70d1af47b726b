"""The policies of a closed loop: baselines by name and checkpoints, with a hash of their conditions."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mctrace.analysis.closed_loop.config import ClosedLoopConfig
from mctrace.analysis.closed_loop.influence import Influence
from mctrace.analysis.closed_loop.oracles import ORACLE_ALLOCATOR, Hindsight, RecallOracle
from mctrace.analysis.closed_loop.policies import (
    Policy,
    RetrievalWindow,
    ScoredPolicy,
    TokenMatch,
    TokenWindow,
    attention_scores,
    lensnet_scores,
    random_scores,
    recency_scores,
    similarity_scores,
    word_scores,
)
from mctrace.base_model.model_source import ModelSource
from mctrace.collect.planning.lensnet_policy import load_scorer
from mctrace.collect.planning.part_ids import EVALUATOR_VERSION
from mctrace.context.allocator import AllocatorConfig
from mctrace.context.shared_tokens import bm25, rare_words
from mctrace.datasets.store.provenance import Provenance
from mctrace.errors import ConfigError
from mctrace.train.checkpoints.lensnet_checkpoint import checkpoint_name

_NUM_RETRIEVED = 2
"""blocks that retrieval shows of the text that truncation leaves out"""
_OF_ABSENCE = ("bm25", "rare_words", "influence")


@dataclass(frozen=True)
class NamedPolicy:
    """A policy with its name and a hash of everything that its rows depend on."""

    name: str
    policy: Policy
    key: str


def make_policies(
    source: ModelSource,
    provenance: Provenance,
    config: ClosedLoopConfig,
    allocator: AllocatorConfig,
    protected_tail: int,
    checkpoints: Sequence[Path],
) -> Iterator[NamedPolicy]:
    """The policies of `config.policies`, then one for each checkpoint folder.

    Raises ConfigError when two have the same name, InputError for a checkpoint trained on labels of another
    base model, GistNet or tree.
    """

    def named(name: str, policy: Policy, identity: str) -> NamedPolicy:
        return NamedPolicy(name, policy, _key(identity, provenance, config, allocator, protected_tail))

    for name in _OF_ABSENCE:
        if name in config.policies and provenance.absence == "off":
            raise ConfigError(
                f"closed_loop.policies names {name}, which leaves blocks out: set tree.absence to tokens"
            )
    baselines = _baselines(source, config, allocator)
    names: set[str] = set(config.policies)
    for baseline in dict.fromkeys(config.policies):
        yield named(baseline, baselines[baseline], baseline)
    for folder in checkpoints:
        name = checkpoint_name(folder)
        if name in names:
            raise ConfigError(f"two policies are called {name!r}: move the run in {folder} to another folder")
        names.add(name)
        scorer = load_scorer(folder, provenance, balances=config.rebalance, price=config.price)
        yield named(name, ScoredPolicy(lensnet_scores(scorer), allocator), scorer.checkpoint_hash)


def _baselines(
    source: ModelSource, config: ClosedLoopConfig, allocator: AllocatorConfig
) -> dict[str, Policy]:
    hindsight = Hindsight(config.max_candidates)
    literal_hindsight = Hindsight(config.max_candidates, literal=True)
    return {
        "full": TokenWindow(everything=True),
        "lod0": TokenWindow(),
        "recency": ScoredPolicy(recency_scores, allocator),
        "random": ScoredPolicy(random_scores, allocator),
        "attention": ScoredPolicy(attention_scores, allocator),
        "similarity": ScoredPolicy(similarity_scores, allocator),
        "words": ScoredPolicy(word_scores, allocator),
        "bm25": RetrievalWindow(TokenMatch(bm25), _NUM_RETRIEVED),
        "rare_words": RetrievalWindow(TokenMatch(rare_words), _NUM_RETRIEVED),
        "influence": RetrievalWindow(Influence(), _NUM_RETRIEVED),
        "told": ScoredPolicy(
            RecallOracle(source.load_tokenizer()), replace(ORACLE_ALLOCATOR, num_edits=config.told_edits)
        ),
        "hindsight": ScoredPolicy(hindsight, ORACLE_ALLOCATOR),
        "literal_hindsight": ScoredPolicy(literal_hindsight, ORACLE_ALLOCATOR),
    }


def _key(
    policy: str,
    provenance: Provenance,
    config: ClosedLoopConfig,
    allocator: AllocatorConfig,
    protected_tail: int,
) -> str:
    """Hash of what a row's numbers depend on; which other policies and documents there are is left out."""
    loop = {
        name: value for name, value in asdict(config).items() if name not in ("policies", "documents", "skip")
    }
    if policy != "told":
        del loop["told_edits"]
    conditions = {
        "policy": policy,
        "closed_loop": loop,
        "allocator": asdict(allocator),
        "provenance": provenance.columns,
        "protected_tail": protected_tail,
        "evaluator_version": EVALUATOR_VERSION,
    }
    if provenance.absence != "off":
        conditions["absence"] = provenance.absence
    return hashlib.sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest()[:16]
