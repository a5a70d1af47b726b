"""Gists that are a few of their span's own positions, its anchors: read again, or kept as they were read.

No input embedding stands for such a node. What LensNet is given in its place is the mean of its children, so
that these are GistNets too: their gists are features, and no label depends on them.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.base_model.masked_pass import check_whole_attention, linear_layers
from mctrace.errors import ModelError
from mctrace.gists.network.anchored_spans import FloatArray, InformativeRun, LastAndSurprising
from mctrace.gists.network.gistnet import MeanGistNet
from mctrace.gists.network.key_value_gistnet import KeyValueGistNet

KEPT = "kept-"
EXTRACT = "extract-"
_MOST_ANCHORS = 1024


@dataclass(frozen=True)
class AnchoredGists(ABC):
    """Gists of M positions each."""

    num_anchors: int

    @property
    @abstractmethod
    def content_hash(self) -> str:
        """Hash of everything that labels with these gists depend on."""

    @abstractmethod
    def anchors(self, surprisal_T: FloatArray, first: int, end: int) -> tuple[int, ...]:
        """Anchors of tokens [first, end), in order, by each token's NLL in the text's own pass."""

    def check_fits(self, block_size: int, embedding_dim: int) -> None:
        """Raises ModelError unless M is below K."""
        if self.num_anchors >= block_size:
            raise ModelError(
                f"gists of {self.num_anchors} positions would stand for blocks of {block_size} tokens: take "
                "a smaller M in gists.source (gists.num_anchors) or a larger tree.block_size"
            )

    def gists(self, children_MKd: Tensor, level: int) -> Tensor:
        """The children's means [M, d], for LensNet to see in a node's place."""
        return MeanGistNet().gists(children_MKd, level)


@dataclass(frozen=True)
class ExtractedGists(AnchoredGists):
    """The M tokens of a span in a row that together are the most surprising, read again where they stand."""

    @property
    def content_hash(self) -> str:
        return f"{EXTRACT}{self.num_anchors}"

    def anchors(self, surprisal_T: FloatArray, first: int, end: int) -> tuple[int, ...]:
        return InformativeRun(self.num_anchors)(surprisal_T, first, end)


@dataclass(frozen=True)
class KeptGists(AnchoredGists):
    """Keys and values at M anchors of each span: the frozen model's own, or through adapters at these.

    Labels are of contexts that stay as they were read (`collect/measuring/kept_labels.py`).
    """

    adapters: KeyValueGistNet | None = None

    @property
    def content_hash(self) -> str:
        """kept-M, followed by the adapters' hash where there are some."""
        name = f"{KEPT}{self.num_anchors}"
        return name if self.adapters is None else f"{name}-{self.adapters.content_hash}"

    def check_fits(self, block_size: int, embedding_dim: int) -> None:
        """Raises ModelError unless M is below K and the adapters are of blocks of K tokens."""
        super().check_fits(block_size, embedding_dim)
        if self.adapters is not None:
            self.adapters.check_block_size(block_size)

    def place(self, model: FrozenCausalLM) -> None:
        """Move the adapters to the device of `model`. Raises ModelError for a model that they do not fit, or
        that has local attention."""
        check_whole_attention(model.network.config)
        if self.adapters is not None:
            self.adapters.check_layers(linear_layers(model.network))
            self.adapters.to(model.device)

    def anchors(self, surprisal_T: FloatArray, first: int, end: int) -> tuple[int, ...]:
        return LastAndSurprising(self.num_anchors)(surprisal_T, first, end)


def has_adapters(gist_hash: str) -> bool:
    """Whether the gists of this `content_hash` were made by adapters."""
    return gist_hash.startswith(KEPT) and gist_hash.count("-") > 1


def is_extract(gist_hash: str) -> bool:
    """Whether the gists of this `content_hash` are tokens that are read again."""
    return gist_hash.startswith(EXTRACT)


def count_after(prefix: str, source: str) -> int | None:
    """M of `prefix` followed by M, None for any other name. Raises ModelError for no usable number."""
    if not source.startswith(prefix):
        return None
    text = source.removeprefix(prefix)
    if not text.isdigit() or not 1 <= int(text) <= _MOST_ANCHORS:
        raise ModelError(
            f"gists {source!r}: M is a number of positions from 1 to {_MOST_ANCHORS}, as in {prefix}4"
        )
    return int(text)
