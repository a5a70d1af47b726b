"""Sections of the configuration that decide which trajectories a collection run measures."""

from dataclasses import dataclass

from mctrace.collect.config import CollectConfig, CorpusConfig, GistConfig, ModelConfig
from mctrace.context.allocator import AllocatorConfig
from mctrace.context.tree import TreeShape


@dataclass(frozen=True)
class RunSettings:
    """Base model, gists, documents and trajectories of a run; the allocator leads the policy `lensnet`."""

    model: ModelConfig
    gists: GistConfig
    tree: TreeShape
    corpus: CorpusConfig
    collect: CollectConfig
    allocator: AllocatorConfig
