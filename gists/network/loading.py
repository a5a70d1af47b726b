"""Loading a GistNet: by name ("mean", a shipped one, or organisation/name on a hub), by folder, or by Python
entry point.

A folder is data and runs no code. An entry point "package.module:attribute" runs the user's own installed
code and is accepted from the configuration only, never from a checkpoint or a store.
"""

import importlib
from pathlib import Path
from types import FunctionType

import torch

from mctrace.base_model.causal_lm import FrozenCausalLM
from mctrace.errors import InputError, ModelError
from mctrace.gists.network.anchored_gists import EXTRACT, KEPT, ExtractedGists, KeptGists, count_after
from mctrace.gists.network.gistnet import GistNet, MeanGistNet
from mctrace.gists.network.key_value_gistnet import KeyValueGistNet, is_key_value_folder
from mctrace.gists.network.network_folder import CONFIG, WEIGHTS
from mctrace.gists.network.transformer_gistnet import TransformerGistNet
from mctrace.hub import is_repo_name, pretrained_folder
from mctrace.train.checkpoints.manifest import MANIFEST

SHIPPED = Path(__file__).parents[1] / "shipped"


def shipped_names() -> list[str]:
    """Names of the trained GistNets shipped with the package."""
    return sorted(folder.name for folder in SHIPPED.glob("*") if folder.is_dir()) if SHIPPED.is_dir() else []


def gistnet_folder(source: str) -> Path | None:
    """The folder of a path or shipped name, None for any other source. A path wins over a name."""
    if Path(source).is_dir():
        return Path(source)
    return SHIPPED / source if source in shipped_names() else None


def load_gists(source: str, num_anchors: int) -> GistNet:
    """Load what labels are measured with: a GistNet of embeddings, or `AnchoredGists`.

    `num_anchors` is M of a key-value GistNet. Raises ModelError listing valid sources.
    """
    if count := count_after(KEPT, source):
        return KeptGists(count)
    if count := count_after(EXTRACT, source):
        return ExtractedGists(count)
    folder = _network_folder(source)
    if folder is not None and is_key_value_folder(folder):
        return KeptGists(num_anchors, KeyValueGistNet.from_pretrained(folder))
    return load_gistnet(source)


def load_gistnet(source: str) -> GistNet:
    """Load the GistNet of embeddings `source`. Raises ModelError listing valid sources."""
    if source == "mean":
        return MeanGistNet()
    folder = _network_folder(source)
    is_key_value = folder is not None and is_key_value_folder(folder)
    if count_after(KEPT, source) or count_after(EXTRACT, source) or is_key_value:
        raise ModelError(
            f"gists {source!r} are several positions of a span, which only 'mctrace collect' and "
            "'mctrace gist evaluate' read: give gists of embeddings, like mean"
        )
    if folder is not None:
        return TransformerGistNet.from_pretrained(folder)
    if ":" in source:
        return _from_entry_point(source)
    shipped = ", ".join(shipped_names()) or "none"
    raise ModelError(
        f"gists.source {source!r} is neither 'mean', kept-M nor extract-M, nor a shipped name ({shipped}), "
        "nor a folder with config.json and model.safetensors, nor organisation/name on a hub, nor an entry "
        "point 'package.module:attribute'"
    )


def place_gistnet(gistnet: GistNet, model: FrozenCausalLM, block_size: int) -> None:
    """Move `gistnet` to the device of `model`. Raises ModelError when its width or block size is another."""
    gistnet.check_fits(block_size, model.embedding_dim)
    if isinstance(gistnet, KeptGists):
        gistnet.place(model)
    if isinstance(gistnet, torch.nn.Module):
        gistnet.to(model.device)


def _network_folder(source: str) -> Path | None:
    """The folder of a path, a shipped name or organisation/name on a hub; None for any other source."""
    folder = gistnet_folder(source)
    return _from_hub(source) if folder is None and is_repo_name(source) else folder


def _from_hub(repo: str) -> Path:
    try:
        return pretrained_folder(repo, (CONFIG, WEIGHTS, MANIFEST))
    except InputError as error:
        raise ModelError(f"gists.source {repo!r} is no local folder, and the hub: {error}") from error


def _from_entry_point(source: str) -> GistNet:
    module_name, _, attribute = source.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ModelError(f"gists.source {source!r} cannot be imported: {error}") from error
    # A class has the methods too, but is no instance; a torch module is callable, but is no factory.
    is_factory = isinstance(found, type | FunctionType)
    gistnet = found() if is_factory else found
    if not isinstance(gistnet, GistNet):
        raise ModelError(
            f"gists.source {source!r} gave a {type(gistnet).__name__}, which lacks "
            "content_hash, check_fits or gists"
        )
    return gistnet
