"""Folder of a trained network of gists: config.json, weights as safetensors, a manifest; the hash of both."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mctrace.errors import ModelError
from mctrace.train.checkpoints.manifest import check_manifest, warn_if_unchecked, write_manifest
from mctrace.train.checkpoints.weights import read_weights

Network = TypeVar("Network", bound=nn.Module)

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


def hash_of_network(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    """sha256 over the configuration and the weights in name order, in float32."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def save_network(folder: Path, config: Mapping[str, Any], network: nn.Module, dtype: torch.dtype) -> None:
    """Write config.json, model.safetensors with the weights in `dtype`, and a manifest of both."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in network.state_dict().items()
    }
    save_file(weights, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    write_manifest(folder, (CONFIG, WEIGHTS))


def load_network(folder: Path, make: Callable[[dict[str, Any]], Network], what: str) -> Network:
    """The frozen network that `make` builds from config.json, with its weights.

    Raises ModelError saying that `folder` does not hold `what`, complete and undamaged.
    """
    try:
        check_manifest(folder, (CONFIG, WEIGHTS))
        network = make(json.loads((folder / CONFIG).read_text()))
        network.load_state_dict(read_weights(folder / WEIGHTS, network.state_dict()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{folder} does not hold {what}: {error}") from error
    warn_if_unchecked(folder)
    return network.requires_grad_(False).eval()


def read_config(folder: Path) -> dict[str, Any]:
    """Content of config.json; empty where there is none that could be read."""
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
