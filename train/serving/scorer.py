"""Runtime scorer: load a trained LensNet from a folder, score working contexts."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from mctrace.context.allocator_candidates import Candidates
from mctrace.context.tree import TreeShape, tree_of
from mctrace.datasets.batches.context_tensors import Context
from mctrace.errors import InputError
from mctrace.train.checkpoints.lensnet_checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
from mctrace.train.config import Device
from mctrace.train.device import resolve_device
from mctrace.train.inference import score_actions, score_contexts
from mctrace.train.networks.config import Price
from mctrace.train.networks.lensnet import LensNet


@dataclass(frozen=True)
class Scorer:
    """A network in evaluation mode and its description. Needs torch, numpy and safetensors only."""

    network: LensNet
    info: CheckpointInfo

    @classmethod
    def from_pretrained(cls, source: Path | str, device: Device = "auto") -> "Scorer":
        """Load a folder, or "organisation/name" on a hub; raises InputError as `load_checkpoint` does."""
        network, info = load_checkpoint(source)
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
        protected_tail: int | None = None,
        price: Price = "searched",
    ) -> Tensor:
        """Signed scores [N], one per entry of the context: positive asks for more detail, negative for less.

        Absent blocks are scored too, at their place among the entries (`LODMap.nodes`). One unit is
        `info.utility_scale` nats per token. A network that learned values gives value less price, for a
        context that is to take `budget` positions (its own size unless given); one with a price head, and
        those trained on a signed target, give 0 in illegal directions. The price is the shadow price, at
        which the worthwhile edits fit the budget, or with `price = "learned"` that of the price head. Tokens
        of the last `protected_tail` never collapse; the context's own unless given.

        Raises InputError when the context's tree differs in shape from that of the training data, or when it
        comes without token ids and the network matches words.
        """
        return score_contexts(
            self.network, [self._checked(context, protected_tail)],
            signed=self.info.signed, rebalanced=rebalanced, budget=budget, price=price,
        )[0]  # fmt: skip

    def candidates(
        self,
        context: Context,
        *,
        rebalanced: bool = False,
        budget: int,
        protected_tail: int | None = None,
        price: Price = "searched",
    ) -> Candidates:
        """The context's legal actions with signed scores, each less the price of its own positions.

        Arguments and errors are those of `score`; only networks trained on a signed target are `rebalanced`.
        """
        return score_actions(
            self.network, self._checked(context, protected_tail),
            signed=self.info.signed, rebalanced=rebalanced, budget=budget, price=price,
        )  # fmt: skip

    def _checked(self, context: Context, protected_tail: int | None) -> Context:
        self._check_tree(context.lod_map.tree)
        return context if protected_tail is None else replace(context, protected_tail=protected_tail)

    def _check_tree(self, tree: TreeShape) -> None:
        info = self.info
        learned = tree_of(info.block_size, info.max_level, info.absence, info.gist_positions)
        if tree != learned:
            raise InputError(
                f"this LensNet was trained on trees of {_shape(learned)}, the context has {_shape(tree)}"
            )


def _shape(tree: TreeShape) -> str:
    absent = "" if tree.absence == "off" else f" with absent blocks ({tree.absence})"
    several = "" if tree.positions_of(1) == 1 else f" with gists of {tree.positions_of(1)} positions"
    return f"K = {tree.block_size} up to level {tree.max_level}{several}{absent}"
