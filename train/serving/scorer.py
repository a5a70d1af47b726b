"""Runtime scorer: load a trained LensNet from a folder, score working contexts."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mctrace.context.allocator_candidates import Candidates, candidates_of
from mctrace.context.pricing import subtract_price
from mctrace.context.tree import TreeShape
from mctrace.datasets.batches.context_tensors import Context
from mctrace.errors import InputError
from mctrace.train.checkpoints.lensnet_checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
from mctrace.train.config import Device
from mctrace.train.device import resolve_device
from mctrace.train.inference import raw_scores, score_contexts
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

        Absent blocks are scored too, at their place among the entries (`LODMap.nodes`). One unit is
        `info.utility_scale` nats per token. Networks trained on a signed target score 0 in illegal
        directions. From those trained on values of detail the shadow price is subtracted: the price at which
        the worthwhile edits fit `budget` positions (the context's own size unless given), with collapses
        outside the last `protected_tail` tokens only.

        Raises InputError when the context's tree differs in shape from that of the training data.
        """
        self._check_tree(context.lod_map.tree)
        return score_contexts(
            self.network, [context],
            signed=self.info.signed, rebalanced=rebalanced, budget=budget, protected_tails=[protected_tail],
        )[0]  # fmt: skip

    def candidates(
        self, context: Context, *, rebalanced: bool = False, budget: int, protected_tail: int
    ) -> Candidates:
        """The context's legal actions with signed scores, each less the price of its own positions.

        Raises InputError as `score` does.
        """
        self._check_tree(context.lod_map.tree)
        (score_N,) = raw_scores(self.network, [context], signed=self.info.signed, rebalanced=rebalanced)
        candidates = candidates_of(context.lod_map, protected_tail, score_N.double().numpy())
        if self.info.signed:
            return candidates
        return subtract_price(candidates, budget - context.lod_map.num_entries)

    def _check_tree(self, tree: TreeShape) -> None:
        learned = TreeShape(self.info.block_size, self.info.max_level, self.info.absence)
        if tree != learned:
            raise InputError(
                f"this LensNet was trained on trees of {_shape(learned)}, the context has {_shape(tree)}"
            )


def _shape(tree: TreeShape) -> str:
    absent = "" if tree.absence == "off" else f" with absent blocks ({tree.absence})"
    return f"K = {tree.block_size} up to level {tree.max_level}{absent}"
