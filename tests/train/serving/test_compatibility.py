"""A checkpoint is compatible with each kind of labels that it was trained on, and with no other."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from mctrace.datasets.store.provenance import Provenance
from mctrace.errors import InputError
from mctrace.train.checkpoints.lensnet_checkpoint import CheckpointInfo, describe
from mctrace.train.config import TrainConfig
from mctrace.train.networks.config import NetworkConfig
from mctrace.train.serving.compatibility import check_compatible, differences

A = Provenance("model-a", "tokens", "gists-a", "float32", 32, 2)
B = replace(A, model_hash="model-b", gist_hash="gists-b")


def learned_from(*kinds: Provenance, match_words: bool = False) -> CheckpointInfo:
    return describe(
        TrainConfig(network=NetworkConfig(match_words=match_words)),
        embedding_dim=8,
        block_size=32,
        max_level=2,
        utility_scale=1.0,
        target_sql="",
        dataset={"uri": "store", "version": 3, **asdict(Provenance.of_all(kinds))},
    )


@pytest.mark.parametrize(
    ("kind", "differs"),
    [
        (A, ""),
        (B, ""),
        (replace(A, dtype="bfloat16", tokenizer_hash="others"), ""),
        (replace(A, gist_hash="gists-b"), "GistNet"),  # of the other base model
        (replace(A, model_hash="model-c"), "base model"),
        (replace(A, model_hash="model-c", gist_hash="gists-c"), "base model and GistNet"),
        (replace(B, block_size=16), "tree"),
        (replace(B, max_level=1, gist_hash="gists-c"), "GistNet and tree"),
    ],
)
def test_of_a_mixture_each_kind_is_known_and_nothing_between(kind, differs):
    assert differences(learned_from(A, B), kind) == differs


def test_token_ids_that_are_matched_must_be_of_a_tokenizer_that_was_seen():
    info = learned_from(A, B, match_words=True)
    assert differences(info, A) == differences(info, replace(B, dtype="bfloat16")) == ""
    assert differences(info, replace(A, tokenizer_hash="others")) == "tokenizer"


def test_one_kind_that_was_never_seen_is_enough_to_refuse():
    check_compatible(learned_from(A, B), Path("run/best"), [A, B], "the labels of store have")
    with pytest.raises(InputError, match=r"run/best was trained .* another base model and GistNet than the"):
        check_compatible(learned_from(A), Path("run/best"), [A, B], "the labels of store have")
