"""Configuration of the LensNet networks."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Lt

from mctrace.errors import ConfigError
from mctrace.ranges import PositiveFloat, PositiveInt, check_ranges

NetworkName = Literal["dual_cross_attention", "transformer", "linear"]
Head = Literal["mlp", "linear"]


@dataclass(frozen=True)
class NetworkConfig:
    """Which LensNet, and its sizes. `linear` has no sizes: it uses `name` only."""

    section: ClassVar[str] = "train.network"

    name: NetworkName = "dual_cross_attention"
    """`dual_cross_attention`, `transformer` (docs/specification/networks.md#dual-cross-attention), or the
    baseline `linear`"""
    d_lens: PositiveInt = 512
    """inner width, after the down-projection; a multiple of `num_heads`"""
    num_heads: PositiveInt = 8
    """attention heads"""
    num_stacks: PositiveInt = 2
    """rounds of cross-attention (gists to context, then entries to gists); `dual_cross_attention` only"""
    match_tail: bool = True
    """give the head the similarity of entries and tail gists; `dual_cross_attention` only"""
    num_layers: PositiveInt = 2
    """layers of the `transformer`; the specification has 2, 4 or 8"""
    head: Head = "mlp"
    """scoring head of the `transformer`"""
    score_limit: PositiveFloat = 1.0
    """scores of the `transformer` are limited to ± this by a tanh; 1 is the specification's"""
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
