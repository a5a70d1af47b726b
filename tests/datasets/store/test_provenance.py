"""What labels depend on: several kinds in one description, and back."""

from dataclasses import asdict

import pytest

from mctrace.datasets.store.provenance import Provenance, kinds_in, mixture_in

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
