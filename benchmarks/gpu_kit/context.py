"""What a step of the GPU kit is given: a device, sizes, documents, and a place to put each result at once."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_kit.records import append
from benchmarks.gpu_kit.weights import unpacked_model


@dataclass(frozen=True)
class KitSizes:
    """How large everything is that a step measures."""

    context: int
    """entries of a level-0 context whose speed is measured"""
    cursors: tuple[int, ...]
    """cursors of the trajectories, the case that counts most first"""
    recency_tokens: int
    label_context: int
    """entries of the level-0 context whose labels are compared with the naive ones"""
    num_labels: int
    """actions whose labels are compared, over both maps"""
    lensnet_entries: int
    lensnet_dims: tuple[int, ...]
    loss_actions: tuple[int, ...]
    step_rows: tuple[int, ...]
    """snapshots of a whole training step, the compiled step's last"""
    rows: int
    """rows of a batch whose attention is measured alone"""
    rounds: int
    matmul: int
    """rows and columns of the square matrices whose product gives the device's rate"""
    batch_tokens: tuple[int, ...]


FULL = KitSizes(
    context=8192, cursors=(8, 32, 1), recency_tokens=7072, label_context=1024, num_labels=40,
    lensnet_entries=8192, lensnet_dims=(576, 2048, 4096), loss_actions=(512, 1024, 2048, 4096, 8192),
    step_rows=(1, 4), rows=16, rounds=20, matmul=8192, batch_tokens=(16384, 32768, 65536, 131072),
)  # fmt: skip
TOY = KitSizes(
    context=256, cursors=(2, 1), recency_tokens=512, label_context=256, num_labels=4,
    lensnet_entries=256, lensnet_dims=(64,), loss_actions=(64, 128), step_rows=(1,), rows=2, rounds=2,
    matmul=256, batch_tokens=(1024, 4096),
)  # fmt: skip


@dataclass(frozen=True)
class StepContext:
    """Of one step in one process."""

    step: str
    root: Path
    """the folder of the kit's parts"""
    results: Path
    """the file that results are appended to"""
    device: torch.device
    toy: bool
    deadline: float
    """by time.monotonic(), when the step is ended"""

    @property
    def sizes(self) -> KitSizes:
        return TOY if self.toy else FULL

    @property
    def out(self) -> Path:
        """The folder of the results: for files of a step's own, in few and small ones (docs/gpu.md)."""
        return self.results.parent

    @property
    def on_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    def say(self, case: str, **values: Any) -> None:
        """Keep a result: in the file before this returns."""
        append(self.results, {"kind": "result", "step": self.step, "case": case, **values})

    def documents(self) -> Mapping[str, Tensor]:
        """Token ids [T] of real texts by name, for SmolLM2's vocabulary; int64."""
        from safetensors.torch import load_file

        found = load_file(Path(__file__).parents[2] / "documents.safetensors")
        return {name: ids_T.long() for name, ids_T in found.items()}

    def tokens(self, count: int) -> Tensor:
        """The first `count` token ids of all documents, one after another."""
        every_T = torch.cat([ids_T for _, ids_T in sorted(self.documents().items())])
        assert len(every_T) >= count, (len(every_T), count)
        return every_T[:count]

    def smollm2(self) -> Path:
        """A folder that transformers loads SmolLM2 from; unpacked by the first who asks."""
        return unpacked_model(self.root)
