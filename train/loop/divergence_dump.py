"""Dump of a divergence: the batch whose loss was not finite, and the weights before that step."""

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from torch import Tensor

from mctrace.datasets.batches.padded_batch import Batch
from mctrace.train.checkpoints.atomic_folder import write_folder
from mctrace.train.networks.lensnet import LensNet
from mctrace.train.objectives.lensnet_gradients import Examples

FOLDER = "diverged"
BATCH, WEIGHTS, NAMES = "batch.safetensors", "model.safetensors", "snapshots.json"


def dump_diverged_batch(root: Path, network: LensNet, parts: Sequence[Examples], rank: int = 0) -> Path:
    """Write a worker's parts of the batch to `root/diverged` and return that folder.

    Readable without this package: `batch.safetensors` has every tensor as `<part>/labels/<field>` or
    `<part>/pairs/<field>`, `snapshots.json` the ids of their rows, `model.safetensors` the weights before the
    step. Workers of another rank than 0 write to `root/diverged_<rank>`.
    """
    from safetensors.torch import save_file

    folder = root / (FOLDER if rank == 0 else f"{FOLDER}_{rank}")
    tensors: dict[str, Tensor] = {}
    names: dict[str, list[str]] = {}
    for number, part in enumerate(parts):
        if part.labels is not None:
            _put(part.labels, f"{number}/labels", tensors, names)
        if part.pairs is not None:
            _put(part.pairs.contexts, f"{number}/pairs", tensors, names)
            for name in ("row", "direction", "from_adv_delta", "to_adv_delta"):
                tensors[f"{number}/pairs/{name}"] = getattr(part.pairs, name)

    def fill(fresh: Path) -> None:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, fresh / BATCH)
        weights = {name: t.detach().cpu().contiguous() for name, t in network.state_dict().items()}
        save_file(weights, fresh / WEIGHTS)
        (fresh / NAMES).write_text(json.dumps(names, indent=1), encoding="utf-8")

    write_folder(folder, fill)
    return folder


def _put(batch: Batch, prefix: str, tensors: dict[str, Tensor], names: dict[str, list[str]]) -> None:
    names[prefix] = list(batch.snapshot_ids)
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            tensors[f"{prefix}/{field.name}"] = value
