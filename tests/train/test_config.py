"""Ranges of the training configuration; messages name the dotted key."""

import pytest

from mctrace.errors import ConfigError
from mctrace.train.config import OptimiserConfig, TrainConfig, small_preset
from mctrace.train.networks.config import NetworkConfig
from mctrace.train.objectives.config import ObjectiveConfig, PreferenceConfig


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainConfig(batch_size=0), "train.batch_size must be at least 1, got 0"),
        (lambda: TrainConfig(keep_last=0), "train.keep_last must be at least 1"),
        (lambda: TrainConfig(device="tpu"), "train.device must be one of auto, cpu, cuda; got 'tpu'"),
        (lambda: TrainConfig(target=""), "train.target must not be empty"),
        (lambda: NetworkConfig(name="mlp"), "train.network.name must be one of"),
        (
            lambda: NetworkConfig(d_lens=10, num_heads=4),
            r"train.network.d_lens must be a multiple .*\(4\), got 10",
        ),
        (lambda: NetworkConfig(dropout=1.0), "train.network.dropout must be below 1, got 1.0"),
        (lambda: ObjectiveConfig(rank_weight=float("nan")), "train.objective.rank_weight"),
        (lambda: ObjectiveConfig(illegality="max"), "train.objective.illegality must be one of mean, sum"),
        (lambda: NetworkConfig(num_layers=0), "train.network.num_layers must be at least 1"),
        (lambda: NetworkConfig(head="deep"), "train.network.head must be one of mlp, linear"),
        (lambda: NetworkConfig(name="transformer", d_lens=12, num_heads=4), "must be even"),
        (lambda: ObjectiveConfig(name="best"), "train.objective.name must be one of counterfactual"),
        (lambda: ObjectiveConfig(variance_floor=0), "train.objective.variance_floor must be above 0"),
        (lambda: ObjectiveConfig(budget="free"), "train.objective.budget must be one of positions"),
        (lambda: PreferenceConfig(temperature=0), "train.objective.preference.temperature must be above 0"),
        (lambda: PreferenceConfig(adv_norm_beta=1), "preference.adv_norm_beta must be below 1, got 1"),
        (lambda: PreferenceConfig(hard_negative_share=2), "hard_negative_share must be at most 1"),
        (lambda: TrainConfig(accumulation=0), "train.accumulation must be at least 1"),
        (lambda: TrainConfig(precision="half"), "train.precision must be one of auto"),
        (lambda: TrainConfig(where="true", objective=ObjectiveConfig("preference")), "pairs_where"),
        (lambda: TrainConfig(pairs_where="true"), "train.where"),
        (lambda: OptimiserConfig(learning_rate=0), "train.optimiser.learning_rate must be above 0, got 0"),
        (lambda: OptimiserConfig(betas=(0.9, 1.0)), "train.optimiser.betas must be below 1, got 1.0"),
        (lambda: OptimiserConfig(betas=(0.9,)), "train.optimiser.betas must have 2 values"),
        (lambda: OptimiserConfig(total_steps=300), r"train.optimiser.warmup_steps must be at most .*\(300\)"),
    ],
)
def test_a_value_out_of_range_names_its_key(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_defaults_are_the_specification_s():
    config = TrainConfig()
    assert (config.batch_size, config.eval_interval, config.save_interval) == (16, 500, 2000)
    assert (config.network.d_lens, config.network.num_heads, config.network.num_stacks) == (512, 8, 2)
    assert (config.objective.rank_weight, config.objective.budget_weight) == (0.5, 0.1)
    assert (config.optimiser.learning_rate, config.optimiser.total_steps) == (1e-4, 50_000)


@pytest.mark.parametrize("network", ["dual_cross_attention", "transformer", "linear"])
def test_the_small_preset_is_a_valid_configuration(network):
    config = small_preset(network)
    assert config.network.name == network
    assert config.optimiser.total_steps <= 1000
