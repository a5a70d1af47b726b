"""A trained LensNet as a live runtime wants it: load a folder, score a working context."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mctrace.datasets.batches.contexts import Context
from mctrace.errors import InputError
from mctrace.train.config import Device
from mctrace.train.inference import score_contexts
from mctrace.train.loop.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
from mctrace.train.loop.trainer import resolve_device
from mctrace.train.networks.lensnet import LensNet


@dataclass(frozen=True)
class Scorer:
    """A network in evaluation mode and what is known of it. Needs torch, numpy and safetensors only."""

    network: LensNet
    info: CheckpointInfo

    @classmethod
    def from_pretrained(cls, folder: Path | str, device: Device = "auto") -> "Scorer":
        """Reads a checkpoint's folder; raises InputError when it is none, or damaged."""
        network, info = load_checkpoint(Path(folder))
        return cls(network.to(resolve_device(device)), info)

    def save_pretrained(self, folder: Path | str) -> None:
        """Writes weights (safetensors) and description (JSON) to `folder`, replacing what is there."""
        save_checkpoint(Path(folder), self.network, self.info)

    def score(
        self,
        context: Context,
        *,
        rebalanced: bool = False,
        budget: int | None = None,
        protected_tail: int = 0,
    ) -> Tensor:
        """Signed scores [N], one per entry of the context: positive asks for more detail, negative for less.

        One unit is `info.utility_scale` nats per token. Scores of a network that learned a signed target are
        0 in illegal directions. One that learned values of detail scores them less the price at which what
        is worth it fits `budget` positions (the context's own size unless given) without touching the
        `protected_tail`. Raises InputError when the context's tree is not of the shape that the network was
        trained on.
        """
        tree = context.lod_map.tree
        if (tree.block_size, tree.max_level) != (self.info.block_size, self.info.max_level):
            raise InputError(
                f"this LensNet was trained on trees of K = {self.info.block_size} up to level "
                f"{self.info.max_level}, the context has K = {tree.block_size} up to level {tree.max_level}"
            )
        return score_contexts(
            self.network, [context],
            signed=self.info.signed, rebalanced=rebalanced, budget=budget, protected_tails=[protected_tail],
        )[0]  # fmt: skip
