"""Compatibility of a checkpoint with labels or contexts: same base model, GistNet and tree shape.

A LensNet is trained on one base model's embeddings and one GistNet's gists in trees of one shape, or on a
mixture of such kinds, and its scores are meaningless for any other. The dtype is not compared: precision
changes entries by rounding only. One that matches words also needs the tokenizer whose ids it learned from.
"""

from collections.abc import Iterable
from pathlib import Path

from mctrace.datasets.store.provenance import Provenance, kinds_in, short_gists
from mctrace.errors import InputError
from mctrace.train.checkpoints.lensnet_checkpoint import CheckpointInfo


def differences(info: CheckpointInfo, kind: Provenance) -> str:
    """The parts of `kind` (base model, GistNet, tree, and where words are matched the tokenizer) that the
    training data lack; "" when compatible."""
    learned = kinds_in(info.dataset, "model_hash", "gist_hash")
    of_model = {gists for model, gists in learned if model == kind.model_hash}
    differs = {
        "base model": not of_model,
        "GistNet": kind.gist_hash not in (of_model or {gists for _, gists in learned}),
        "tokenizer": info.network.match_words
        and (kind.tokenizer_hash,) not in kinds_in(info.dataset, "tokenizer_hash"),
        "tree": (kind.tree.block_size, kind.tree.max_level) != (info.block_size, info.max_level),
    }
    return " and ".join(name for name, differ in differs.items() if differ)


def check_compatible(info: CheckpointInfo, folder: Path, kinds: Iterable[Provenance], where: str) -> None:
    """Raises InputError when one of `kinds` is not compatible with the checkpoint; `where` names them."""
    for kind in kinds:
        if differs := differences(info, kind):
            learned = "; ".join(
                _named(model, gists, info.block_size, info.max_level)
                for model, gists in sorted(kinds_in(info.dataset, "model_hash", "gist_hash"))
            )
            found = _named(kind.model_hash, kind.gist_hash, kind.tree.block_size, kind.tree.max_level)
            raise InputError(
                f"{folder} was trained on labels of another {differs} than {where} ({learned}; here "
                f"{found}): its scores mean nothing there. Choose what it was trained on, or train a new one "
                "for this"
            )


def _named(model_hash: str, gist_hash: str, block_size: int, max_level: int) -> str:
    return f"model {model_hash[:8]} gists {short_gists(gist_hash)} K={block_size} max_level={max_level}"
