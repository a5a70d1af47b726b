"""mctrace: counterfactual ΔNLL traces of context edits; measure, store, query, and train LensNet on them.

The names below are the public interface. Each is imported on first use, so that `import mctrace` needs neither
torch nor duckdb: SQL works without a base model's libraries, and a runtime can score contexts without a store.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mctrace.attribution.attribute import attribute
    from mctrace.attribution.attribution import Attribution
    from mctrace.attribution.text_model import TextModel
    from mctrace.context.actions import Action
    from mctrace.context.allocator import AllocatorConfig, allocate
    from mctrace.context.allocator_candidates import candidates_of
    from mctrace.context.lod_map import LODMap
    from mctrace.context.tree import Node, TreeShape
    from mctrace.datasets.batches.context_tensors import Context, TreeEmbeddings
    from mctrace.datasets.sql.notebook import Traces, open_traces
    from mctrace.datasets.store.store import Store, StoreVersion, create_store, open_store
    from mctrace.errors import MctraceError
    from mctrace.gists.network.gistnet import GistNet, build_tree
    from mctrace.gists.network.loading import load_gistnet
    from mctrace.sharing.push import push_to_hub
    from mctrace.train.checkpoints.lensnet_checkpoint import load_checkpoint
    from mctrace.train.config import TrainConfig
    from mctrace.train.serving.scorer import Scorer

__all__ = [
    "Action",
    "AllocatorConfig",
    "Attribution",
    "Context",
    "GistNet",
    "LODMap",
    "MctraceError",
    "Node",
    "Scorer",
    "Store",
    "StoreVersion",
    "TextModel",
    "Traces",
    "TrainConfig",
    "TreeEmbeddings",
    "TreeShape",
    "__version__",
    "allocate",
    "attribute",
    "build_tree",
    "candidates_of",
    "create_store",
    "load_checkpoint",
    "load_gistnet",
    "open_store",
    "open_traces",
    "push_to_hub",
]

try:
    __version__ = version("mctrace")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"

_MODULES = {
    "mctrace.attribution.attribute": ["attribute"],
    "mctrace.attribution.attribution": ["Attribution"],
    "mctrace.attribution.text_model": ["TextModel"],
    "mctrace.context.actions": ["Action"],
    "mctrace.context.allocator": ["AllocatorConfig", "allocate"],
    "mctrace.context.allocator_candidates": ["candidates_of"],
    "mctrace.context.lod_map": ["LODMap"],
    "mctrace.context.tree": ["Node", "TreeShape"],
    "mctrace.datasets.batches.context_tensors": ["Context", "TreeEmbeddings"],
    "mctrace.datasets.sql.notebook": ["Traces", "open_traces"],
    "mctrace.datasets.store.store": ["Store", "StoreVersion", "create_store", "open_store"],
    "mctrace.errors": ["MctraceError"],
    "mctrace.gists.network.gistnet": ["GistNet", "build_tree"],
    "mctrace.gists.network.loading": ["load_gistnet"],
    "mctrace.sharing.push": ["push_to_hub"],
    "mctrace.train.checkpoints.lensnet_checkpoint": ["load_checkpoint"],
    "mctrace.train.config": ["TrainConfig"],
    "mctrace.train.serving.scorer": ["Scorer"],
}
"""the imports above, for use at run time"""
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'mctrace' has no attribute {name!r}")
    found = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
