"""Configuration of the LensNet networks."""

from dataclasses import dataclass
from typing import Literal, get_args

from mctrace.errors import ConfigError
from mctrace.ranges import check_choice, check_range

NetworkName = Literal["dual_cross_attention", "transformer", "linear"]


Head = Literal["mlp", "linear"]


@dataclass(frozen=True)
class NetworkConfig:
    """Kind and sizes of a LensNet (docs/specification/networks.md#dual-cross-attention).

    `linear` has no sizes: it reads `name` only.
    """

    name: NetworkName = "dual_cross_attention"
    """dual_cross_attention, transformer, or linear, the baseline without layers"""
    d_lens: int = 512
    """width LensNet works at, after the down-projection; a multiple of `num_heads`"""
    num_heads: int = 8
    """attention heads"""
    num_stacks: int = 2
    """rounds of "tail gists read the context, entries read the gists"; of dual_cross_attention"""
    match_tail: bool = True
    """let the head see how alike each entry and the tail gists are; of dual_cross_attention"""
    num_layers: int = 2
    """layers of the transformer; the specification has 2, 4 or 8"""
    head: Head = "mlp"
    """mlp or linear: the transformer's last layer, which scores an entry"""
    score_limit: float = 1.0
    """the transformer's scores stay within ± this by a tanh; 1 is the specification's"""
    dropout: float = 0.1
    """dropped share of attention weights and head activations while training, in [0, 1)"""

    def __post_init__(self) -> None:
        check_choice("train.network.name", self.name, get_args(NetworkName))
        check_range("train.network.d_lens", self.d_lens, at_least=1)
        check_range("train.network.num_heads", self.num_heads, at_least=1)
        check_range("train.network.num_stacks", self.num_stacks, at_least=1)
        check_range("train.network.num_layers", self.num_layers, at_least=1)
        check_choice("train.network.head", self.head, get_args(Head))
        check_range("train.network.score_limit", self.score_limit, above=0)
        if self.name == "transformer" and self.d_lens // max(self.num_heads, 1) % 2:
            raise ConfigError(
                "train.network.d_lens / num_heads must be even, since positions turn pairs of numbers, got "
                f"{self.d_lens} / {self.num_heads}"
            )
        if self.d_lens % self.num_heads:
            raise ConfigError(
                f"train.network.d_lens must be a multiple of num_heads ({self.num_heads}), got {self.d_lens}"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"train.network.dropout must be in [0, 1), got {self.dropout}")
