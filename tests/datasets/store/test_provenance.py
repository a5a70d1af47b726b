"""What labels depend on: several kinds in one description, and back."""

from dataclasses import asdict, replace

import pytest

from mctrace.datasets.store.provenance import Provenance, kinds_in, mixture_in, refuse_mixture
from mctrace.errors import InputError

A = Provenance("model-a", "tokens", "gists-a", "float32", 32, 2)
A_OTHER_GISTS = Provenance("model-a", "tokens", "mean", "float32", 32, 2)
B = Provenance("model-b", "tokens", "mean", "float32", 32, 2)


@pytest.mark.parametrize(
    ("kinds", "mixture"),
    [
        ([A], ()),
        ([A, A_OTHER_GISTS], ("gists",)),
        ([A_OTHER_GISTS, B], ("models",)),
        ([A, A_OTHER_GISTS, B], ("models", "gists")),
    ],
)
def test_a_mixture_is_told_kind_by_kind(kinds, mixture):
    described = asdict(Provenance.of_all(kinds))
    assert kinds_in(described, "model_hash", "gist_hash") == {(k.model_hash, k.gist_hash) for k in kinds}
    assert mixture_in(described) == mixture
    assert (described["tokenizer_hash"], described["block_size"]) == ("tokens", 32)


def test_what_was_read_again_never_goes_with_what_stayed_as_it_was_read():
    kept = replace(A, gist_hash="kept-4", semantics="kept", gist_positions=4)
    with pytest.raises(
        InputError, match=r"gists gists-a float32 .* gists kept-4 float32 .* never go together"
    ):
        refuse_mixture([A, kept], ("gists", "models", "dtypes"), "store")
    with pytest.raises(InputError, match="different trees"):
        refuse_mixture([kept, replace(kept, gist_hash="kept-2", gist_positions=2)], ("gists",), "store")
    refuse_mixture([kept], (), "store")


def test_only_what_differs_from_embeddings_is_added_to_what_a_label_depends_on():
    names = {"model_hash", "tokenizer_hash", "gist_hash", "dtype", "block_size", "max_level"}
    assert set(A.columns) == names
    adapted = replace(A, gist_hash="kept-2-0123456789abcdef", semantics="kept", gist_positions=2)
    assert adapted.columns["semantics"] == "kept"
    assert "gists kept-2-01234567 " in str(adapted)
    assert Provenance.of(adapted.columns).tree.positions_of(2) == 2
