"""Whether a checkpoint's scores mean anything somewhere: it has to have learned from labels of that kind.

A LensNet reads one base model's embeddings and one GistNet's gists in trees of one shape, and knows nothing
of others; one that learned from a mixture knows each kind of it. The dtype does not count: in another
precision the same entries differ by rounding alone.
"""

from collections.abc import Iterable
from pathlib import Path

from mctrace.datasets.store.provenance import Provenance, kinds_in
from mctrace.errors import InputError
from mctrace.train.loop.checkpoint import CheckpointInfo


def what_differs(info: CheckpointInfo, kind: Provenance) -> str:
    """What of `kind` the checkpoint never learned from, in words; empty where its scores mean something."""
    learned = kinds_in(info.dataset, "model_hash", "gist_hash")
    of_model = {gists for model, gists in learned if model == kind.model_hash}
    differs = {
        "base model": not of_model,
        "GistNet": kind.gist_hash not in (of_model or {gists for _, gists in learned}),
        "tree": (kind.tree.block_size, kind.tree.max_level) != (info.block_size, info.max_level),
    }
    return " and ".join(name for name, differ in differs.items() if differ)


def refuse_unlearned(info: CheckpointInfo, folder: Path, kinds: Iterable[Provenance], where: str) -> None:
    """Raises InputError when one of the `kinds` that `where` names is none the checkpoint learned from."""
    for kind in kinds:
        if differs := what_differs(info, kind):
            learned = "; ".join(
                _named(model, gists, info.block_size, info.max_level)
                for model, gists in sorted(kinds_in(info.dataset, "model_hash", "gist_hash"))
            )
            found = _named(kind.model_hash, kind.gist_hash, kind.tree.block_size, kind.tree.max_level)
            raise InputError(
                f"{folder} was trained on labels of another {differs} than {where} ({learned}; here "
                f"{found}): its scores mean nothing there. Choose what it was trained on, or train one for "
                "this"
            )


def _named(model_hash: str, gist_hash: str, block_size: int, max_level: int) -> str:
    return f"model {model_hash[:8]} gists {gist_hash[:8]} K={block_size} max_level={max_level}"
