"""Descriptions of checkpoints for tests."""

from mctrace.train.checkpoints.lensnet_checkpoint import describe
from mctrace.train.config import TrainConfig


def info_for(network_config):
    return describe(
        TrainConfig(network=network_config),
        embedding_dim=12,
        block_size=4,
        max_level=2,
        utility_scale=0.02,
        target_sql="",
        dataset={"uri": "store", "version": 7, "model_hash": "abc"},
    )
