"""Training and inference import without the libraries of collection, store and base model."""

import subprocess
import sys
import textwrap


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
        from mctrace.train import inference
        from mctrace.train.checkpoints import lensnet_checkpoint
        from mctrace.train.evaluation import split_evaluation
        from mctrace.train.loop import telemetry, training_loop
        from mctrace.train.config import OptimiserConfig
        from mctrace.train.loop.optimisation_steps import gradients_of, optimisation_steps

        module = torch.nn.Linear(2, 1)
        def loss_fn(x):
            loss = module(x).square().sum()
            return loss, {"loss": loss.item()}
        config = OptimiserConfig(warmup_steps=0, total_steps=1)
        (step,) = optimisation_steps(module, iter([torch.ones(1, 2)]), gradients_of(loss_fn), config)
        assert step.number == 1
        """,
    )


def test_networks_losses_and_trainer_import_with_torch_and_numpy_only():
    run_without(
        (*COLLECT_AND_STORE, "safetensors", "tensorboard", "rich", "pydantic", "typer", "scipy"),
        """
        from mctrace.train import inference
        from mctrace.train.checkpoints import lensnet_checkpoint
        from mctrace.train.evaluation import snapshot_metrics, split_evaluation
        from mctrace.train.loop import training_loop
        from mctrace.train.networks import registry
        from mctrace.train.objectives import counterfactual
        """,
    )
