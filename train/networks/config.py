"""Configuration of the LensNet networks."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Lt

from mctrace.errors import ConfigError
from mctrace.ranges import PositiveFloat, PositiveInt, check_ranges

NetworkName = Literal["dual_cross_attention", "transformer", "linear"]
Head = Literal["mlp", "linear"]
Price = Literal["searched", "learned"]
"""whose price of a position edits are chosen by: the shadow price of the values, or the network's own"""


@dataclass(frozen=True)
class NetworkConfig:
    """Kind and sizes of a LensNet (docs/specification/networks.md#dual-cross-attention).

    `linear` has no sizes: it reads `name` and `match_words` only.
    """

    section: ClassVar[str] = "train.network"

    name: NetworkName = "dual_cross_attention"
    """dual_cross_attention, transformer, or linear, the baseline without layers"""
    d_lens: PositiveInt = 512
    """inner width, after the down-projection; a multiple of `num_heads`"""
    num_heads: PositiveInt = 8
    """attention heads"""
    num_stacks: PositiveInt = 2
    """rounds of "tail gists read the context, entries read the gists"; of dual_cross_attention"""
    match_tail: bool = True
    """let the head see how alike each entry and the tail gists are; of dual_cross_attention"""
    match_words: bool = False
    """show the network how well each entry matches what was read last by token ids: BM25 and rare words; an
    extension"""
    num_layers: PositiveInt = 2
    """layers of the transformer; the specification has 2, 4 or 8"""
    head: Head = "mlp"
    """mlp or linear: the transformer's last layer, which scores an entry"""
    score_limit: PositiveFloat = 1.0
    """the transformer's scores stay within ± this by a tanh; 1 is the specification's"""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    """dropout rate of attention weights and head activations in training"""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.name == "transformer" and self.d_lens // self.num_heads % 2:
            raise ConfigError(
                f"{self.section}.d_lens / num_heads must be even, since rotary positions rotate pairs of "
                f"channels, got {self.d_lens} / {self.num_heads}"
            )
        if self.d_lens % self.num_heads:
            raise ConfigError(
                f"{self.section}.d_lens must be a multiple of num_heads ({self.num_heads}), got {self.d_lens}"
            )
