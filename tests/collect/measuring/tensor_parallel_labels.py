"""One of several processes that hold a model's shards by transformers' own `tp_plan` and measure the
actions of a context in step. Arguments: model folder, number of processes, file for its labels."""

import sys
from pathlib import Path

import torch
import torch.distributed
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig

from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.collect.planning.edits import action_edit
from tests.collect.measuring.test_evaluator import PROTECTED_TAIL, make_document, measure, mixed_trajectory


def main(folder: str, num_processes: int, answer: Path) -> None:
    torch.distributed.init_process_group("gloo")
    network = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, distributed_config=DistributedConfig(tp_size=num_processes)
    )
    shard = network.model.layers[0].mlp.up_proj.weight.to_local()
    assert len(shard) * num_processes == network.config.intermediate_size
    model, trajectory = FrozenCausalLM(network.requires_grad_(False).eval()), mixed_trajectory()
    edits = [action_edit(trajectory, action) for action in trajectory.legal_actions(PROTECTED_TAIL)]
    labels = measure(model, make_document(model), trajectory, edits, batch_tokens=64)
    if torch.distributed.get_rank() == 0:
        torch.save(labels, answer)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
