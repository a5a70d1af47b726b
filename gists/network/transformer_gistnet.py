"""The trainable GistNet: a small transformer over a block's embeddings, pooled into one.

A gist is a sum of a few weighted means of its children (picks) plus a correction. The last layers of weights
and correction are initialised to zero, so an untrained network is exactly the mean-pooled gist. Its layers
have the Llama family's shape and can be initialised as copies of a base model's first ones.

Shapes: M nodes, K children per node, S = K positions, or K + 1 with a slot, d embedding width of the base
model, w inner width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from mctrace.errors import ModelError
from mctrace.gists.config import Pooling
from mctrace.gists.network.llama_layer import LLAMA_NAMES, GistLayer, LayerSizes
from mctrace.gists.network.network_folder import hash_of_network, load_network, save_network

_MAX_LEVELS = 4
_PICK_FEATURES = 64


@dataclass(frozen=True)
class GistNetConfig:
    """Sizes of the network, stored beside its weights."""

    embedding_dim: int
    """d, the base model's embedding width"""
    block_size: int = 32
    """K, children per node"""
    pooling: Pooling = "cls"
    """outputs from which the correction is computed: their `mean`, their pick-weighted mean (`query`), or
    the output of a learned slot after the children, which takes part in every layer (`cls`)"""
    width: int = 384
    """inner width of the transformer"""
    num_layers: int = 2
    num_heads: int = 6
    num_kv_heads: int = 6
    """heads of keys and values; fewer than `num_heads` are shared between queries"""
    feedforward_width: int = 1024
    rope_theta: float = 10_000.0
    """base of the rotary position embedding"""
    num_picks: int = 4
    """number of weighted means of the children, each with its gain, that are summed in a gist"""
    num_levels: int = 1
    """1: one set of weights for every level; otherwise one set per level"""

    def __post_init__(self) -> None:
        if self.pooling not in get_args(Pooling):
            raise ModelError(
                f"GistNet pooling must be one of {', '.join(get_args(Pooling))}; got {self.pooling!r}"
            )
        for key, size in asdict(self).items():
            if key in ("pooling", "rope_theta"):
                continue
            if not isinstance(size, int) or size < 1:
                raise ModelError(f"GistNet {key} must be a whole number of at least 1, got {size!r}")
        if not self.rope_theta > 0:
            raise ModelError(f"GistNet rope_theta must be above 0, got {self.rope_theta!r}")
        if self.width % (2 * self.num_heads):
            raise ModelError(
                f"GistNet width {self.width} is not divisible by twice num_heads {self.num_heads}"
            )
        if self.num_heads % self.num_kv_heads:
            raise ModelError(
                f"GistNet num_heads {self.num_heads} is not divisible by num_kv_heads {self.num_kv_heads}"
            )

    @property
    def layer_sizes(self) -> LayerSizes:
        return LayerSizes(
            self.width,
            self.num_heads,
            self.num_kv_heads,
            self.width // self.num_heads,
            self.feedforward_width,
            self.rope_theta,
        )


class _Pooler(nn.Module):
    """Transformer over K children (and a slot): weights of the picks, and a correction to their sum."""

    centre: Tensor
    """[w] mean of the pooled outputs over sample blocks"""
    spread: Tensor
    """[w] their standard deviation; both are set once, by `calibrate`, before training on the base model"""

    def __init__(self, config: GistNetConfig) -> None:
        super().__init__()
        self.config = config
        same_width = config.width == config.embedding_dim
        self.project_in = nn.Identity() if same_width else nn.Linear(config.embedding_dim, config.width)
        self.level_offset = nn.Parameter(torch.zeros(_MAX_LEVELS, config.width))
        if config.pooling == "cls":
            self.slot = nn.Parameter(torch.randn(config.width) * 0.02)
        self.layers = nn.ModuleList(GistLayer(config.layer_sizes) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.width, eps=1e-5)
        # Separate features for each pick, or all would learn the same.
        self.pick_features = nn.Linear(config.width, config.num_picks * _PICK_FEATURES, bias=False)
        self.pick_weight = nn.Parameter(torch.zeros(config.num_picks, _PICK_FEATURES))
        self.gain = nn.Parameter(torch.full((config.num_picks,), 1 / config.num_picks))
        self.register_buffer("centre", torch.zeros(config.width))
        self.register_buffer("spread", torch.ones(config.width))
        self.project_out = nn.Linear(config.width, config.embedding_dim, bias=False)
        nn.init.zeros_(self.project_out.weight)

    def forward(self, children_MKd: Tensor, level: int, input_scale: Tensor) -> Tensor:
        # Children are scaled to the base model's embeddings, the correction back to the children's own scale:
        # whatever the scale of a level's gists, the next level reads them like tokens.
        scale_M11 = children_MKd.std(dim=(1, 2), keepdim=True).clamp(min=1e-6)
        normed_MSw = self.encode(children_MKd * (input_scale / scale_M11), level)
        weight_MK1 = (self.pick_logits(normed_MSw).softmax(dim=1) @ self.gain)[..., None]
        # What all blocks have in common would dominate what distinguishes them.
        apart_Mw = (self._pool(normed_MSw, weight_MK1) - self.centre) / self.spread
        correction_Md: Tensor = self.project_out(apart_Mw)
        picked_Md: Tensor = (weight_MK1 * children_MKd).sum(dim=1)
        return picked_Md + correction_Md * scale_M11[:, 0]

    @torch.no_grad()
    def calibrate(self, scaled_MKd: Tensor) -> None:
        """Set `centre` and `spread` from sample blocks."""
        normed_MSw = self.encode(scaled_MKd, 1)
        weight_MK1 = (self.pick_logits(normed_MSw).softmax(dim=1) @ self.gain)[..., None]
        spread_w, centre_w = torch.std_mean(self._pool(normed_MSw, weight_MK1), dim=0)
        self.centre.copy_(centre_w)
        self.spread.copy_(spread_w.clamp(min=1e-3))

    def encode(self, scaled_MKd: Tensor, level: int) -> Tensor:
        """Normed outputs [M, S, w] over children at the scale of the base model's embeddings."""
        hidden_MSw: Tensor = self.project_in(scaled_MKd) + self.level_offset[level - 1]
        if self.config.pooling == "cls":
            slot_M1w = self.slot.expand(len(hidden_MSw), 1, -1)
            hidden_MSw = torch.cat([hidden_MSw, slot_M1w], dim=1)
        # Causal, like the layers that may be copied; the slot comes last and attends to every child.
        positions = hidden_MSw.shape[1]
        mask_SS = torch.ones(positions, positions, dtype=torch.bool, device=hidden_MSw.device).tril()
        for layer in self.layers:
            hidden_MSw = layer(hidden_MSw, mask_SS)
        normed_MSw: Tensor = self.norm(hidden_MSw)
        return normed_MSw

    def pick_logits(self, normed_MSw: Tensor) -> Tensor:
        """Logits [M, K, picks] of each pick over the children."""
        features = self.pick_features(normed_MSw[:, : self.config.block_size])
        features_MKpf = features.view(*features.shape[:2], *self.pick_weight.shape)
        logits_MKp: Tensor = (features_MKpf * self.pick_weight).sum(dim=-1)
        return logits_MKp

    def _pool(self, normed_MSw: Tensor, weight_MK1: Tensor) -> Tensor:
        if self.config.pooling == "mean":
            return normed_MSw.mean(dim=1)
        if self.config.pooling == "cls":
            return normed_MSw[:, -1]
        return (weight_MK1 * normed_MSw).sum(dim=1)


class TransformerGistNet(nn.Module):
    """A GistNet with trainable weights; `GistNetConfig` has its sizes."""

    input_scale: Tensor

    def __init__(self, config: GistNetConfig) -> None:
        super().__init__()
        self.config = config
        self.poolers = nn.ModuleList(_Pooler(config) for _ in range(config.num_levels))
        self.register_buffer("input_scale", torch.ones(()))

    @property
    def content_hash(self) -> str:
        """sha256 over the configuration and the weights in name order."""
        return hash_of_network(asdict(self.config), self.state_dict())

    def check_fits(self, block_size: int, embedding_dim: int) -> None:
        made_for = (self.config.block_size, self.config.embedding_dim)
        if made_for != (block_size, embedding_dim):
            raise ModelError(
                f"the GistNet was trained for blocks of {made_for[0]} and width {made_for[1]}, "
                f"the run has blocks of {block_size} and a base model of width {embedding_dim}"
            )

    def gists(self, children_MKd: Tensor, level: int) -> Tensor:
        pooler = self.poolers[min(level, len(self.poolers)) - 1]
        gists_Md: Tensor = pooler(children_MKd.float(), level, self.input_scale)
        return gists_Md.to(children_MKd.dtype)

    def pick_logits(self, children_MKd: Tensor) -> list[Tensor]:
        """Pick logits [M, K, picks] of each set of weights over children that are tokens."""
        scaled_MKd = self._scaled(children_MKd)
        return [pooler.pick_logits(pooler.encode(scaled_MKd, 1)) for pooler in self._typed_poolers()]

    def calibrate(self, children_MKd: Tensor) -> None:
        """Set the statistics that are subtracted from pooled outputs, from sample blocks of tokens."""
        for pooler in self._typed_poolers():
            pooler.calibrate(self._scaled(children_MKd))

    def _scaled(self, children_MKd: Tensor) -> Tensor:
        scale_M11 = children_MKd.std(dim=(1, 2), keepdim=True).clamp(min=1e-6)
        return children_MKd * (self.input_scale / scale_M11)

    def _typed_poolers(self) -> list[_Pooler]:
        return [pooler for pooler in self.poolers if isinstance(pooler, _Pooler)]

    def copy_layers(self, layers: Sequence[Mapping[str, Tensor]]) -> None:
        """Copy the weights of a Llama-like base model's first layers, given by their names in that model.

        Raises ModelError when a shape differs.
        """
        for pooler in self.poolers:
            for layer, weights in zip(pooler.get_submodule("layers").children(), layers, strict=True):
                for ours, theirs in LLAMA_NAMES.items():
                    own, given = getattr(layer, ours).weight, weights[f"{theirs}.weight"]
                    if own.shape != given.shape:
                        raise ModelError(
                            f"the base model's {theirs} is {tuple(given.shape)}, "
                            f"the GistNet's {ours} is {tuple(own.shape)}"
                        )
                    own.data.copy_(given)

    def save_pretrained(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Write config.json, model.safetensors with the weights in `dtype`, and a manifest of both."""
        save_network(folder, asdict(self.config), self, dtype)

    @classmethod
    def from_pretrained(cls, folder: Path) -> "TransformerGistNet":
        """Load a folder; raises ModelError when it does not hold a complete, undamaged GistNet."""
        return load_network(folder, lambda values: cls(GistNetConfig(**values)), "a GistNet")
