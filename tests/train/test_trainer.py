"""The loop, the trainer around it, and where their numbers go."""

import json
import math
import subprocess
import sys
import textwrap
from dataclasses import replace
from itertools import repeat

import pytest
import torch

from mctrace.context.errors import ConfigError, InputError
from mctrace.train.config import NetworkConfig, OptimiserConfig, TrainConfig
from mctrace.train.evaluation import evaluate
from mctrace.train.loop import DivergenceError, endless, learning_rate, optimise
from mctrace.train.networks import build_network
from mctrace.train.telemetry import JsonlSink, TensorBoardSink
from mctrace.train.trainer import fit, resolve_device

EMBEDDING_DIM = 12
TINY = NetworkConfig(d_lens=32, num_heads=4, num_stacks=1, dropout=0.0)


def config_for(total_steps=12, **changes):
    optimiser = OptimiserConfig(learning_rate=3e-3, warmup_steps=min(5, total_steps), total_steps=total_steps)
    defaults = {"eval_interval": 5, "save_interval": 4, "log_interval": 5, "network": TINY, "device": "cpu"}
    return TrainConfig(optimiser=optimiser, **{**defaults, **changes})


class Recorder:
    def __init__(self):
        self.lines, self.saved = [], []

    def write(self, step, split, values):
        self.lines.append((step, split, dict(values)))

    def save(self, name, step, metrics):
        self.saved.append((name, step, dict(metrics)))


def train(batch, config, *, losses=None, **passed):
    """Fit a fresh network to one batch, judged on itself or by the given validation losses."""
    network = build_network(config.network, EMBEDDING_DIM, seed=config.seed)
    recorder = Recorder()

    def judge(network):
        if losses is not None:
            return {"loss": next(losses)}
        return evaluate(network, [batch], config.objective).scalars()

    result = fit(
        network, repeat(batch), config, evaluate=judge, save=recorder.save, sinks=[recorder], **passed
    )
    return network, result, recorder


def test_a_tiny_network_overfits_one_batch(make_batch):
    batch = make_batch(0, num_snapshots=4, one_action_per_entry=True)
    _, result, _ = train(batch, config_for(250, eval_interval=250, save_interval=250))
    assert result.last["ranking_accuracy"] > 0.95
    assert result.last["utility_correlation"] > 0.95


def test_every_network_learns(make_batch):
    batch = make_batch(1, num_snapshots=4)
    for network in (TINY, NetworkConfig(name="linear")):
        _, _, recorder = train(batch, config_for(60, network=network, log_interval=10))
        losses = [values["loss"] for _, split, values in recorder.lines if split == "train"]
        assert losses[-1] < 0.9 * losses[0]


def test_a_run_repeats_itself(make_batch):
    config = config_for(8, network=replace(TINY, dropout=0.2))
    first, second = (train(make_batch(2), config)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_intervals_best_and_last(make_batch):
    losses = iter([0.5, 0.3, 0.4])
    _, result, recorder = train(make_batch(3), config_for(12), losses=losses)
    assert [(step, split) for step, split, _ in recorder.lines] == [
        (5, "train"),
        (5, "validation"),
        (10, "train"),
        (10, "validation"),
        (12, "train"),
        (12, "validation"),
    ]
    assert recorder.saved == [
        ("step_0000004", 4, {}),
        ("best", 5, {"loss": 0.5}),
        ("step_0000008", 8, {}),
        ("best", 10, {"loss": 0.3}),
        ("step_0000012", 12, {"loss": 0.4}),
    ]
    assert (result.num_steps, result.best_step, result.best, result.last) == (
        12,
        10,
        {"loss": 0.3},
        {"loss": 0.4},
    )
    train_names = {"loss", "L_reg", "L_rank", "L_budget", "L_illegal", "grad_norm", "lr", "steps_per_s"}
    assert recorder.lines[0][2].keys() == train_names


def test_learning_rate_warms_up_then_follows_a_cosine():
    config = OptimiserConfig(learning_rate=2.0, warmup_steps=4, total_steps=12)
    rates = [learning_rate(config, step) for step in range(1, 13)]
    assert rates[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert rates[8] == pytest.approx(1.0)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert 0 < rates[-1] < 0.1
    assert learning_rate(OptimiserConfig(warmup_steps=3, total_steps=3), 3) == 1e-4


def test_gradients_are_clipped():
    module = torch.nn.Linear(1, 1, bias=False)
    before = module.weight.detach().clone()
    config = OptimiserConfig(learning_rate=0.1, eps=1.0, weight_decay=0, warmup_steps=0, total_steps=1)

    def loss_fn(x):
        loss = (1e6 * module(x)).sum()
        return loss, {"loss": loss.item()}

    (step,) = optimise(module, repeat(torch.ones(1, 1)), loss_fn, config)
    assert step.grad_norm == pytest.approx(1e6)
    # With a clipped gradient g = 1 and eps = 1, Adam's first step is lr·g/(g + eps), half the learning rate.
    torch.testing.assert_close(before - module.weight.detach(), torch.full((1, 1), 0.05))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_divergence_stops_before_the_weights_are_touched(make_batch, bad):
    batch = make_batch(4)
    poisoned = replace(batch, target_utilities=torch.full_like(batch.target_utilities, bad))
    config = config_for(6)
    network = build_network(config.network, EMBEDDING_DIM)
    batches = iter([batch, batch, poisoned])
    recorder = Recorder()
    with pytest.raises(DivergenceError, match="diverged at step 3: loss"):
        fit(network, batches, config, evaluate=lambda _: {"loss": 0.0}, save=recorder.save)
    assert all(parameter.isfinite().all() for parameter in network.parameters())


def test_a_validation_loss_that_is_not_finite_stops_too(make_batch):
    with pytest.raises(DivergenceError, match="validation loss at step 5"):
        train(make_batch(4), config_for(6), losses=iter([math.nan]))


def test_batches_that_end_early_are_an_error(make_batch):
    config = config_for(6)
    network = build_network(config.network, EMBEDDING_DIM)
    with pytest.raises(InputError, match="ended before step 2 of 6"):
        fit(network, iter([make_batch(0)]), config, evaluate=dict, save=Recorder().save)


def test_endless_goes_through_the_epochs_and_refuses_an_empty_one():
    batches = endless(lambda epoch: [(epoch, i) for i in range(2 if epoch < 2 else 0)])
    assert [next(batches) for _ in range(4)] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    with pytest.raises(InputError, match="epoch 2 has no training batch"):
        next(batches)


def test_asking_for_cuda_without_one_is_a_configuration_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto").type == "cpu"
    with pytest.raises(ConfigError, match=r"train\.device"):
        resolve_device("cuda")


def test_jsonl_is_flushed_line_by_line(tmp_path):
    path = tmp_path / "logs" / "train.jsonl"
    with JsonlSink(path) as sink:
        sink.write(5, "train", {"loss": 0.5, "lr": 1e-4})
        sink.write(5, "validation", {"loss": math.inf})
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [
        {"step": 5, "split": "train", "loss": 0.5, "lr": 1e-4},
        {"step": 5, "split": "validation", "loss": None},
    ]


def test_tensorboard_gets_every_scalar(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with TensorBoardSink(tmp_path) as sink:
        sink.write(5, "train", {"loss": 0.5})
        sink.write(10, "validation", {"ranking_accuracy": 0.75})
    events = event_accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert events.Scalars("train/loss")[0].value == 0.5
    assert events.Scalars("validation/ranking_accuracy")[0].step == 10


def run_without(modules, code):
    blocked = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in modules)
    done = subprocess.run(
        [sys.executable, "-c", blocked + textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


COLLECT_AND_STORE = ("ray", "transformers", "duckdb", "deltalake", "pyarrow", "zarr", "accelerate", "gguf")


def test_the_trainer_needs_neither_cluster_nor_base_model_nor_store():
    run_without(
        COLLECT_AND_STORE,
        """
        import torch
        from mctrace.train import checkpoint, evaluation, inference, telemetry, trainer
        from mctrace.train.config import OptimiserConfig
        from mctrace.train.loop import optimise

        module = torch.nn.Linear(2, 1)
        def loss_fn(x):
            loss = module(x).square().sum()
            return loss, {"loss": loss.item()}
        config = OptimiserConfig(warmup_steps=0, total_steps=1)
        (step,) = optimise(module, iter([torch.ones(1, 2)]), loss_fn, config)
        assert step.number == 1
        """,
    )


def test_networks_losses_and_trainer_import_with_torch_and_numpy_only():
    run_without(
        (*COLLECT_AND_STORE, "safetensors", "tensorboard", "rich", "pydantic", "typer", "scipy"),
        "from mctrace.train import networks, losses, metrics, trainer, evaluation, inference, checkpoint",
    )
