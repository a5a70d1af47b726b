"""GistNet evaluation: the same tokens for all variants, deletion in place, summaries by document."""

import numpy as np
import pytest
import torch

from mctrace.context.tree import TreeShape
from mctrace.gists.config import GistEvaluationConfig
from mctrace.gists.evaluation.evaluation_summary import summarise_evaluation
from mctrace.gists.evaluation.loss_changes import (
    GistSetting,
    HeldOutDocument,
    LossChange,
    evaluate_document,
    evaluation_settings,
)
from mctrace.gists.evaluation.variants import DELETED, EmbeddingGists, ExtractiveGists
from mctrace.gists.network.anchored_spans import InformativeRun
from mctrace.gists.network.gistnet import MeanGistNet, build_tree
from mctrace.gists.training.collapsed_maps import with_gists
from tests.gists.tiny_models import TREE, document, tiny_gistnet
from tests.models import tiny_model

CONFIG = GistEvaluationConfig(
    context_tokens=64, horizons=(4, 8), protected_tail=8, spans_per_document=2, windows_per_document=2
)


def held_out(name: str = "a", corpus: str = "c", num_tokens: int = 120) -> HeldOutDocument:
    return HeldOutDocument(name, corpus, document(num_tokens, seed=len(name)))


@pytest.fixture(scope="module")
def found():
    variants = {
        "mean": EmbeddingGists(MeanGistNet()), "trained": EmbeddingGists(tiny_gistnet(is_trained=True))
    }  # fmt: skip
    model = tiny_model()
    return [
        item
        for name in ("a", "bb", "ccc")
        for item in evaluate_document(model, variants, held_out(name), TREE, CONFIG)
    ]


def test_every_setting_has_every_variant_in_every_document(found):
    cells = {
        (m.document.document_id, m.setting, m.variant)
        for m in found
        if isinstance(m, LossChange) and m.setting is not None
    }
    assert len(cells) == 3 * 3 * len(list(evaluation_settings(TREE, CONFIG)))


def test_shares_of_no_node_or_all_nodes_are_left_out():
    settings = list(evaluation_settings(TreeShape(32, 2), GistEvaluationConfig()))
    assert {s.share for s in settings if s.level == 1} == {0.25, 0.5, 0.75}
    assert {(s.share, s.placement) for s in settings if s.level == 2} == {(0.5, "oldest")}
    assert {s.context_tokens for s in settings if s.level == 2} == {2048}


def test_deletion_removes_entries_and_moves_no_other():
    """Against the definition: token 0 and the remaining ones in place, their mean loss minus the full one."""
    model, config = (
        tiny_model(),
        GistEvaluationConfig(
            context_tokens=64, horizons=(8,), shares=(0.5,), protected_tail=8, spans_per_document=0
        ),
    )
    tokens = document(72)
    measured = [
        item
        for item in evaluate_document(model, {}, HeldOutDocument("x", "c", tokens), TREE, config)
        if isinstance(item, LossChange) and item.setting == GistSetting(1, "oldest", 0.5, 64)
    ]
    tokens_T = torch.from_numpy(tokens.astype(np.int64))
    embeddings_Td = model.embed(tokens_T)

    def loss(kept: torch.Tensor) -> float:
        logits_NV = model.logits(embeddings_Td[kept], kept, torch.arange(len(kept)))
        return float(torch.nn.functional.cross_entropy(logits_NV[-9:-1], tokens_T[-8:]))

    # The first token always stays.
    expected = loss(torch.tensor([0, *range(32, 72)])) - loss(torch.arange(72))
    (only,) = measured
    assert only.variant == DELETED
    assert only.delta_nll[8] == pytest.approx(expected, abs=1e-5)


def test_a_gist_is_measured_at_the_centre_of_its_span():
    model, gistnet = tiny_model(), tiny_gistnet(is_trained=True)
    config = GistEvaluationConfig(
        context_tokens=64, horizons=(8,), shares=(0.5,), protected_tail=8, spans_per_document=0
    )
    tokens = document(72)
    variants = {"trained": EmbeddingGists(gistnet)}
    found = evaluate_document(model, variants, HeldOutDocument("x", "c", tokens), TREE, config)
    wanted = GistSetting(2, "oldest", 0.5, 64)
    (measured,) = [
        m for m in found if isinstance(m, LossChange) and (m.setting, m.variant) == (wanted, "trained")
    ]
    tokens_T = torch.from_numpy(tokens.astype(np.int64))
    tree = build_tree(gistnet, model.embed(tokens_T), TREE)
    entries_ND = torch.cat([tree[0][:1], tree[2][:2], tree[0][32:]])
    position_N = torch.cat([torch.tensor([0, 8, 24]), torch.arange(32, 72)])
    logits_HV = model.logits(entries_ND, position_N, torch.arange(34, 42))
    full_TV = model.logits(tree[0], torch.arange(72), torch.arange(63, 71))
    expected = [torch.nn.functional.cross_entropy(x, tokens_T[-8:]).item() for x in (logits_HV, full_TV)]
    assert measured.delta_nll[8] == pytest.approx(expected[0] - expected[1], abs=1e-5)
    assert with_gists(TREE, 64, 2, np.array([0, 1])).entries.position_N(0)[:2].tolist() == [8, 24]


def test_intervals_are_over_documents_and_paired_with_deletion(found):
    summary = summarise_evaluation(found, CONFIG)
    (row,) = [
        row
        for row in summary.rows
        if (row.setting, row.variant, row.horizon) == (GistSetting(1, "random", 0.5, 64), "trained", 8)
    ]
    by_document: dict[str, dict[str, list[float]]] = {}
    for item in found:
        if isinstance(item, LossChange) and item.setting == row.setting:
            by_variant = by_document.setdefault(item.document.document_id, {})
            by_variant.setdefault(item.variant, []).append(item.delta_nll[8])
    means = {name: {v: sum(x) / len(x) for v, x in by.items()} for name, by in by_document.items()}
    assert row.delta_nll.num_documents == 3
    assert row.delta_nll.mean == pytest.approx(sum(m["trained"] for m in means.values()) / 3)
    paired = [m["trained"] - m[DELETED] for m in means.values()]
    assert row.versus_deleted is not None
    assert row.versus_deleted.mean == pytest.approx(sum(paired) / 3)
    assert min(paired) <= row.versus_deleted.low <= row.versus_deleted.high <= max(paired)


def test_spans_and_diversity_are_summarised_by_variant(found):
    summary = summarise_evaluation(found, CONFIG)
    assert {(s.variant, s.horizon) for s in summary.spans} == {
        (variant, horizon) for variant in ("mean", "trained") for horizon in (4, 8)
    }
    assert all(span.num_spans == 3 * 2 * 2 for span in summary.spans)
    assert {(d.variant, d.level) for d in summary.diversity} == {
        (variant, level) for variant in ("mean", "trained") for level in (1, 2)
    }
    assert all(0 <= d.pairs.mean <= 2 for d in summary.diversity)


def test_a_document_shorter_than_context_and_horizon_gives_nothing():
    short = held_out(num_tokens=70)
    assert list(evaluate_document(tiny_model(), {}, short, TREE, CONFIG)) == []


def test_a_copy_is_read_from_the_token_on_that_tells_which_block_it_repeats():
    """Against the definition: the horizon, then a collapsed block again, read from its second token on."""
    model = tiny_model()
    config = GistEvaluationConfig(
        context_tokens=64, horizons=(8,), shares=(0.5,), placements=("oldest",), levels=(1,),
        protected_tail=8, spans_per_document=0, num_copies=1, copy_skip=1,
    )  # fmt: skip
    tokens = document(72)
    variants = {"extract-2": ExtractiveGists(InformativeRun(2))}
    deleted, extract = evaluate_document(model, variants, HeldOutDocument("x", "c", tokens), TREE, config)
    possible = {}
    for block in range(8):
        repeated_T = np.concatenate([tokens, tokens[block * 4 : block * 4 + 4]]).astype(np.int64)
        tokens_T = torch.from_numpy(repeated_T)

        def loss(kept: torch.Tensor, tokens_T: torch.Tensor = tokens_T) -> float:
            logits_NV = model.logits(model.embed(tokens_T)[kept], kept, torch.arange(len(kept)))
            return float(torch.nn.functional.cross_entropy(logits_NV[-4:-1], tokens_T[-3:]))

        full = loss(torch.arange(76))
        possible[block] = (full, loss(torch.tensor([0, *range(32, 76)])) - full)
    found = (deleted.copies.full_nll, deleted.copies.delta_nll)
    assert any(found == pytest.approx(values, abs=1e-5) for values in possible.values())
    assert extract.copies.full_nll == deleted.copies.full_nll
    assert extract.copies.delta_nll != deleted.copies.delta_nll


def test_all_corpora_together_and_robust_centres_stand_beside_means():
    model, variants = tiny_model(), {"mean": EmbeddingGists(MeanGistNet())}
    items = [
        item
        for name, corpus in (("a", "c"), ("bb", "c"), ("ccc", "d"))
        for item in evaluate_document(model, variants, held_out(name, corpus), TREE, CONFIG)
    ]
    summary = summarise_evaluation(items, CONFIG)
    setting = GistSetting(1, "random", 0.5, 64)
    rows = {r.corpus: r for r in summary.rows if (r.setting, r.variant, r.horizon) == (setting, "mean", 8)}
    assert {corpus: row.delta_nll.num_documents for corpus, row in rows.items()} == {"c": 2, "d": 1, "all": 3}
    assert summary.rows[-1].corpus == "all"
    robust = rows["all"].robust
    assert robust.median.low <= robust.median.value <= robust.median.high
    assert robust.trimmed_mean.value == pytest.approx(
        rows["all"].versus_deleted.mean
    )  # none of three is left out
    copies = {r.corpus: r for r in summary.copies if (r.setting, r.variant) == (setting, "mean")}
    assert copies["all"].full_nll > 0
    assert copies["all"].versus_deleted.num_documents == 3
