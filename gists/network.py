"""The trainable GistNet: a small transformer over a block's embeddings with one learned query.

It adds a correction to the mean of the children, and the correction's last layer starts at zero, so an
untrained network is exactly the mean-pooled gist and training can only be judged against it.

Shapes: M nodes, K children per node, d embedding width of the base model, w inner width.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mctrace.context.errors import ModelError


@dataclass(frozen=True)
class GistNetConfig:
    """The network's sizes, stored beside its weights."""

    embedding_dim: int
    """d, the base model's embedding width"""
    block_size: int = 32
    """K, children per node"""
    width: int = 384
    """inner width of the transformer"""
    num_layers: int = 2
    num_heads: int = 6
    num_levels: int = 1
    """1: one set of weights for every level; otherwise one set per level"""

    def __post_init__(self) -> None:
        for key, size in asdict(self).items():
            if not isinstance(size, int) or size < 1:
                raise ModelError(f"GistNet {key} must be a whole number of at least 1, got {size!r}")
        if self.width % self.num_heads:
            raise ModelError(f"GistNet width {self.width} is not divisible by num_heads {self.num_heads}")


class _Pooler(nn.Module):
    """Transformer over [query; K children]; the query's output is the correction to the mean."""

    def __init__(self, config: GistNetConfig) -> None:
        super().__init__()
        self.project_in = nn.Linear(config.embedding_dim, config.width)
        self.query = nn.Parameter(torch.randn(config.width) * 0.02)
        self.position = nn.Parameter(torch.randn(config.block_size, config.width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            config.width, config.num_heads, 4 * config.width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, config.num_layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(config.width)
        self.project_out = nn.Linear(config.width, config.embedding_dim)
        nn.init.zeros_(self.project_out.weight)
        nn.init.zeros_(self.project_out.bias)

    def forward(self, children_MKd: Tensor) -> Tensor:
        # Unit-variance inputs and a correction at the children's own scale fit any base model's embeddings.
        scale_M11 = children_MKd.std(dim=(1, 2), keepdim=True).clamp(min=1e-6)
        hidden_MKw = self.project_in(children_MKd / scale_M11) + self.position
        query_M1w = self.query.expand(len(children_MKd), 1, -1)
        pooled_Mw = self.encoder(torch.cat([query_M1w, hidden_MKw], dim=1))[:, 0]
        correction_Md: Tensor = self.project_out(self.norm(pooled_Mw)) * scale_M11[:, 0]
        return children_MKd.mean(dim=1) + correction_Md


class TransformerGistNet(nn.Module):
    """A GistNet with weights; see `GistNetConfig` for its sizes."""

    def __init__(self, config: GistNetConfig) -> None:
        super().__init__()
        self.config = config
        self.poolers = nn.ModuleList(_Pooler(config) for _ in range(config.num_levels))

    @property
    def content_hash(self) -> str:
        """sha256 over the configuration and the weights in name order."""
        digest = hashlib.sha256(json.dumps(asdict(self.config), sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def check_fits(self, block_size: int, embedding_dim: int) -> None:
        made_for = (self.config.block_size, self.config.embedding_dim)
        if made_for != (block_size, embedding_dim):
            raise ModelError(
                f"the GistNet was made for blocks of {made_for[0]} and width {made_for[1]}, "
                f"the run has blocks of {block_size} and a base model of width {embedding_dim}"
            )

    def gists(self, children_MKd: Tensor, level: int) -> Tensor:
        pooler = self.poolers[min(level, len(self.poolers)) - 1]
        gists_Md: Tensor = pooler(children_MKd.float())
        return gists_Md.to(children_MKd.dtype)

    def save_pretrained(self, folder: Path) -> None:
        """Writes config.json and model.safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(asdict(self.config), indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: Path) -> "TransformerGistNet":
        """Raises ModelError when the folder does not hold a whole GistNet."""
        try:
            network = cls(GistNetConfig(**json.loads((folder / "config.json").read_text())))
            network.load_state_dict(load_file(folder / "model.safetensors"))
        except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"{folder} does not hold a GistNet: {error}") from error
        return network.requires_grad_(False).eval()
