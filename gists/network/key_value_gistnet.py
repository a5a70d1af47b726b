"""Gists of keys and values: what the frozen model itself computed at a few anchors of a span, adapted.

A node is represented by the keys and values, in every layer, of m of its own positions: its last token and
its most surprising others. They come from the document's own pass; the adapters (LoRA on every linear layer)
act at anchors alone, so that an anchor can say what its span is about without the model changing anywhere
else. Adapters begin at zero: an untrained network is exactly the model's own keys and values.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mctrace.base_model.masked_pass import EntryChanges, LowRankChange
from mctrace.errors import ModelError
from mctrace.gists.network.network_folder import (
    CONFIG,
    WEIGHTS,
    hash_of_network,
    load_network,
    read_config,
    save_network,
)

KIND = "key_value"
"""value of `kind` in config.json, which a GistNet of embeddings does not have"""


@dataclass(frozen=True)
class KeyValueGistConfig:
    """Sizes of the adapters, stored beside their weights."""

    block_size: int
    """K of the tree that it was trained for"""
    layers: Mapping[str, tuple[int, int]]
    """(input width, output width) of every adapted linear layer, by its name in the base model"""
    rank: int = 8
    """rank of each layer's change"""

    def to_json(self) -> dict[str, Any]:
        return {"kind": KIND, **asdict(self), "layers": {k: list(v) for k, v in self.layers.items()}}


class KeyValueGistNet(nn.Module):
    """Adapters that act at anchors; see the module's text."""

    def __init__(self, config: KeyValueGistConfig) -> None:
        super().__init__()
        if config.rank < 1 or not config.layers:
            raise ModelError(f"a key-value GistNet needs layers and a rank of at least 1, got {config.rank}")
        self.config = config
        self.down = nn.ParameterDict()
        self.up = nn.ParameterDict()
        for name, (width_in, width_out) in config.layers.items():
            key = _key(name)
            self.down[key] = nn.Parameter(torch.randn(config.rank, width_in) * width_in**-0.5)
            self.up[key] = nn.Parameter(torch.zeros(width_out, config.rank))

    @property
    def content_hash(self) -> str:
        """sha256 over the configuration and the weights in name order."""
        return hash_of_network(self.config.to_json(), self.state_dict())

    def check_fits(self, block_size: int, layers: Mapping[str, tuple[int, int]]) -> None:
        """Raises ModelError unless trained for `block_size` and a base model with these linear layers."""
        self.check_block_size(block_size)
        self.check_layers(layers)

    def check_block_size(self, block_size: int) -> None:
        """Raises ModelError unless trained for `block_size`."""
        if block_size != self.config.block_size:
            raise ModelError(
                f"the key-value GistNet was trained for blocks of {self.config.block_size}, the run has "
                f"blocks of {block_size}: set tree.block_size = {self.config.block_size}"
            )

    def check_layers(self, layers: Mapping[str, tuple[int, int]]) -> None:
        """Raises ModelError unless trained for a base model with these linear layers."""
        if dict(layers) != dict(self.config.layers):
            raise ModelError(
                "the key-value GistNet was trained for a base model with other layers: use the model that "
                "its training.json names"
            )

    def changes(self, entry_A: Tensor) -> EntryChanges:
        """The adapters at the anchors `entry_A`."""
        by_layer = {
            name: LowRankChange(self.down[_key(name)], self.up[_key(name)]) for name in self.config.layers
        }
        return EntryChanges(entry_A, by_layer)

    def save_pretrained(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Write config.json, model.safetensors with the weights in `dtype`, and a manifest of both."""
        save_network(folder, self.config.to_json(), self, dtype)

    @classmethod
    def from_pretrained(cls, folder: Path) -> "KeyValueGistNet":
        """Load a folder; raises ModelError when it does not hold a complete, undamaged one."""
        return load_network(folder, cls._of_json, "a key-value GistNet")

    @classmethod
    def _of_json(cls, values: dict[str, Any]) -> "KeyValueGistNet":
        if values.pop("kind", None) != KIND:
            raise ValueError(f"its {CONFIG} is of another kind of GistNet")
        layers = {name: (int(widths[0]), int(widths[1])) for name, widths in values.pop("layers").items()}
        return cls(KeyValueGistConfig(layers=layers, **values))


def is_key_value_folder(folder: Path) -> bool:
    """Whether `folder` holds a key-value GistNet, by its config.json."""
    return (folder / WEIGHTS).is_file() and read_config(folder).get("kind") == KIND


def _key(name: str) -> str:
    """Name of a layer as torch accepts it for a parameter."""
    return name.replace(".", "/")
