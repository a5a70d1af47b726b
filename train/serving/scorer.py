"""Runtime scorer: load a trained LensNet from a folder, score working contexts."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mctrace.datasets.batches.context_tensors import Context
from mctrace.errors import InputError
from mctrace.train.checkpoints.lensnet_checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
from mctrace.train.config import Device
from mctrace.train.device import resolve_device
from mctrace.train.inference import score_contexts
from mctrace.train.networks.lensnet import LensNet


@dataclass(frozen=True)
class Scorer:
    """A network in evaluation mode and its description. Needs torch, numpy and safetensors only."""

    network: LensNet
    info: CheckpointInfo

    @classmethod
    def from_pretrained(cls, folder: Path | str, device: Device = "auto") -> "Scorer":
        """Load a checkpoint folder; raises InputError when it is not a checkpoint or is damaged."""
        network, info = load_checkpoint(Path(folder))
        return cls(network.to(resolve_device(device)), info)

    def save_pretrained(self, folder: Path | str) -> None:
        """Write weights (safetensors) and description (JSON) to `folder` atomically, replacing an old one."""
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

        One unit is `info.utility_scale` nats per token. Networks trained on a signed target score 0 in
        illegal directions. From those trained on values of detail the shadow price is subtracted: the price
        at which the worthwhile edits fit `budget` positions (the context's own size unless given), with
        collapses outside the last `protected_tail` tokens only.

        Raises InputError when the context's tree differs in shape from that of the training data.
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
