"""Checkpoints of random LensNets that fit the tiny model, for tests of on-policy maps and closed loops."""

from pathlib import Path

import torch

from mctrace.datasets.sql.registry import target_sql
from mctrace.datasets.store.provenance import Provenance
from mctrace.train.checkpoints.lensnet_checkpoint import describe, save_checkpoint
from mctrace.train.config import TrainConfig
from mctrace.train.networks.config import NetworkConfig
from mctrace.train.networks.registry import build_network


def save_random_lensnet(
    folder: Path,
    provenance: Provenance,
    embedding_dim: int,
    seed: int = 0,
    target: str = "priced",
    *,
    match_words: bool = False,
) -> Path:
    """A narrow network whose scores spread by about one unit."""
    config = NetworkConfig(d_lens=16, num_heads=2, num_stacks=1, dropout=0.0, match_words=match_words)
    network = build_network(config, embedding_dim, seed=seed, absence=provenance.absence)
    with torch.no_grad():
        for name, weights in network.named_parameters():
            if name.startswith("head.") and weights.ndim == 2:
                weights.mul_(100.0 if weights.shape[0] == 1 else 3.0)
    info = describe(
        TrainConfig(network=config, target=target),
        embedding_dim=embedding_dim,
        block_size=provenance.tree.block_size,
        max_level=provenance.tree.max_level,
        utility_scale=0.02,
        dataset={
            "uri": "store",
            "version": 1,
            "model_hash": provenance.model_hash,
            "tokenizer_hash": provenance.tokenizer_hash,
            "gist_hash": provenance.gist_hash,
        },
        target_sql=target_sql(target),
        absence=provenance.absence,
        gist_positions=provenance.gist_positions,
    )
    save_checkpoint(folder, network, info)
    return folder
