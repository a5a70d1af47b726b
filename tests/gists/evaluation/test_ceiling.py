"""Ceilings: the start is the model's own, optimising lowers what it is for, and nothing else learns."""

import numpy as np
import pytest
import torch

from mctrace.errors import ConfigError, InputError, ModelError
from mctrace.gists.config import GistCeilingConfig
from mctrace.gists.evaluation.ceiling import Rung, _Window, measure_ceilings, replaced_layers, rungs
from mctrace.gists.evaluation.ceiling_evaluation import evaluate_ceilings
from mctrace.gists.evaluation.loss_changes import HeldOutDocument
from mctrace.gists.evaluation.variants import ExtractiveGists, ReadWindow
from mctrace.gists.network.anchored_spans import LastAndSurprising, surprisal
from mctrace.gists.training.collapsed_maps import with_gists
from mctrace.progress import Silent
from tests.gists.tiny_models import TREE, document
from tests.models import tiny_model

CONFIG = GistCeilingConfig(
    block_sizes=(4,), num_vectors=(1, 2), num_steps=12, window_tokens=56, horizon=8, protected_tail=8,
    num_copies=1, copy_skip=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def found():
    model = tiny_model()
    results = list(measure_ceilings(model, torch.from_numpy(document(80).astype(np.int64)), "x", CONFIG))
    assert all(parameter.grad is None for parameter in model.network.parameters())
    return {result.rung: result for result in results}


def test_there_is_a_result_for_every_rung_and_optimising_lowers_its_objective(found):
    assert list(found) == rungs(CONFIG)
    assert len(found) == 2 * 3 * 3
    for result in found.values():
        assert result.objective_reached < result.objective_start
        assert result.num_gists == 6


def test_deletion_and_the_start_do_not_depend_on_what_comes_after(found):
    for place in ("input", "layer", "keys"):
        same = [found[Rung(4, 1, place, objective)] for objective in CONFIG.objectives]
        assert len({result.start for result in same}) == 1
    assert len({result.deleted for rung, result in found.items() if rung.num_vectors == 1}) == 1


def test_inputs_start_as_the_anchors_own_tokens_read_again():
    """Against a window whose anchors are extracted: the variant of the evaluation."""
    model, tokens_T = tiny_model(), torch.from_numpy(document(56).astype(np.int64))
    rung = Rung(4, 1, "input", "others")
    window = _Window.of(model, tokens_T, "x", rung, CONFIG)
    nodes = np.array([span.first // 4 for span in window.spans])
    lod_map = with_gists(TREE, window.cursor, 1, nodes)
    read = ReadWindow(window.tokens_T, window.cursor, surprisal(window.full_TV, window.tokens_T))
    losses_R = ExtractiveGists(LastAndSurprising(1)).losses(model, read, lod_map)
    full_R = torch.from_numpy(surprisal(window.full_TV, window.tokens_T)[window.cursor :])
    expected = float((losses_R - full_R)[: CONFIG.horizon].mean())
    assert window.climb(rung, CONFIG).start == pytest.approx(expected, abs=1e-5)


def test_places_are_layers_of_the_model_or_refused():
    model = tiny_model()
    assert replaced_layers(model, "input", 1) == [""]
    assert replaced_layers(model, "layer", 2) == ["layers.1"]
    assert len(replaced_layers(model, "keys", 1)) == 2 * 2
    with pytest.raises(ModelError, match=r"smaller gist_ceiling\.layer"):
        replaced_layers(model, "layer", 3)
    with pytest.raises(ModelError, match="'keys'"):
        replaced_layers(tiny_model("gpt_neox"), "keys", 1)


def test_a_summary_has_intervals_over_documents_and_short_documents_are_named():
    model = tiny_model()
    config = GistCeilingConfig(
        block_sizes=(4,), num_vectors=(1,), places=("keys",), objectives=("others",), num_steps=1,
        window_tokens=56, horizon=8, protected_tail=8, documents_per_corpus=2,
    )  # fmt: skip
    documents = [HeldOutDocument(name, "c", document(60, seed)) for seed, name in enumerate("abc")]
    rows, counts = evaluate_ceilings(model, documents, "test", config, Silent())
    assert counts == {"c": 2}
    assert rows[0]["reached"]["num_documents"] == 2
    assert rows[0]["vectors_per_token"] == 0.25
    short = [HeldOutDocument("a", "c", document(40))]
    with pytest.raises(InputError, match="has 56 tokens"):
        evaluate_ceilings(model, short, "test", config, Silent())
    with pytest.raises(ConfigError, match="window_tokens must be at least"):
        GistCeilingConfig(window_tokens=200)
