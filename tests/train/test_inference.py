"""Inference at run time: load a folder, score maps and trees, export as a graph."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from mctrace.context.lod_map import LODMap
from mctrace.context.tree import TreeShape
from mctrace.datasets.batches.context_tensors import Context, TreeEmbeddings, unlabelled_batch
from mctrace.errors import InputError
from mctrace.train.checkpoints.lensnet_checkpoint import describe
from mctrace.train.config import TrainConfig
from mctrace.train.inference import rebalance, score
from mctrace.train.networks.config import NetworkConfig
from mctrace.train.networks.focus import signed_scores
from mctrace.train.networks.registry import build_network
from mctrace.train.serving.scorer import Scorer
from mctrace.train.serving.torch_export import INPUTS, PRICE_INPUTS, WORD_INPUT, export_lensnet

TREE = TreeShape(4, 2)
WIDTH = 12
DUAL = NetworkConfig(d_lens=16, num_heads=4)
TRANSFORMER = NetworkConfig(name="transformer", d_lens=16, num_heads=4)


def context(levels, cursor, seed=0):
    generator = torch.Generator().manual_seed(seed)
    trees = [torch.randn(64 // 4**level, WIDTH, generator=generator) for level in range(3)]
    return Context(LODMap(TREE, 0, cursor, np.array(levels, dtype=np.uint8)), TreeEmbeddings(trees))


def shaken(network):
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return network.eval()


def scorer_of(config):
    network = shaken(build_network(config, WIDTH, seed=1))
    info = describe(
        TrainConfig(network=config), embedding_dim=WIDTH, block_size=4, max_level=2, utility_scale=0.02,
        dataset={"version": 1}, target_sql="",
    )  # fmt: skip
    return Scorer(network, info)


@pytest.mark.parametrize("config", [DUAL, TRANSFORMER, NetworkConfig(name="linear")])
def test_a_live_runtime_loads_a_folder_and_scores_its_context(tmp_path, config):
    scorer_of(config).save_pretrained(tmp_path / "best")
    scorer = Scorer.from_pretrained(tmp_path / "best", device="cpu")
    live = context([2, 2, 2, 2, 1, 1, 0, 0], cursor=31)
    scores = scorer.score(live)
    assert scores.shape == (1 + 2 + 7,)
    assert scores[0] >= 0  # the coarsest level cannot collapse
    assert (scores[3:] <= 0).all()  # tokens cannot expand
    assert torch.equal(scores, scorer.score(live))
    batch = unlabelled_batch([live])
    assert torch.equal(
        scorer.score(live, rebalanced=True), rebalance(score(scorer.network, batch, signed=True), batch)[0]
    )


class Worth(torch.nn.Module):
    """Scores every entry by the first number of its embedding, of either sign."""

    match_words = False

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, batch, room_BR=None):
        return self.weight * batch.context_embeddings[..., 0]


def test_the_shadow_price_of_the_budget_is_subtracted_from_values_of_detail():
    # Two gists worth 0.9 and 0.2, then blocks of tokens worth 0.1, 0.5, 0.7 and 0.05.
    worth_of_tokens, worth_of_gists = [0.0] * 8, [0.9, 0.2, 0.0, 0.0, 0.0, 0.0]
    for block in (0.1, 0.5, 0.7, 0.05):
        worth_of_tokens += [block] * 4
    levels = [torch.zeros(len(worths), WIDTH) for worths in (worth_of_tokens, worth_of_gists, [0.0])]
    for table, worths in zip(levels, (worth_of_tokens, worth_of_gists, [0.0]), strict=True):
        table[:, 0] = torch.tensor(worths)
    lod_map = LODMap(TreeShape(4, 2), 0, 24, np.array([1, 1, 0, 0, 0, 0], dtype=np.uint8))
    live = Context(lod_map, TreeEmbeddings(levels))
    info = replace(scorer_of(DUAL).info, target="value", target_sql="-- merge: mean\n")
    scorer = Scorer(Worth(), info)
    raw_N = score(scorer.network, unlabelled_batch([live]), signed=False)[0]
    assert raw_N.max() == pytest.approx(0.9)

    def price(**asked):
        price_N = raw_N - scorer.score(live, **asked)
        torch.testing.assert_close(price_N, price_N[:1].expand_as(price_N))
        return float(price_N[0])

    # At its own size two swaps pay: 0.9 for 0.05 and 0.2 for 0.1.
    assert 0.1 < price() < 0.2
    assert price(budget=lod_map.num_entries) == price()
    # With the last block protected one does, 0.9 for 0.1; the next would be 0.2 for 0.5.
    assert 0.2 < price(protected_tail=4) < 0.5
    # Room for both at once: nothing has to be sold, and nothing is worth less than 0.
    assert price(budget=lod_map.num_entries + 6) == 0
    # With two nodes less three blocks go, and 0.9 still comes.
    assert 0.5 < price(budget=lod_map.num_entries - 6) < 0.9
    assert torch.equal(scorer.score(live), scorer.score(live, rebalanced=True))


def test_a_network_trained_on_pairs_is_signed_whatever_its_target():
    scorer, live = scorer_of(DUAL), context([2, 2, 2, 2, 1, 1, 0, 0], cursor=31)
    values = replace(scorer.info, target="value", target_sql="-- merge: mean\n")
    assert not values.signed
    taught_by_pairs = replace(values, training={"objective": {"name": "preference"}})
    assert torch.equal(Scorer(scorer.network, taught_by_pairs).score(live), scorer.score(live))


def test_a_tree_of_another_shape_is_refused():
    lod_map = LODMap(TreeShape(8, 2), 0, 16, np.array([1, 0], dtype=np.uint8))
    other = Context(lod_map, TreeEmbeddings([torch.zeros(16, WIDTH), torch.zeros(2, WIDTH)]))
    with pytest.raises(InputError, match=r"K = 4 up to level 2, the context has K = 8"):
        scorer_of(DUAL).score(other)


def test_a_tree_that_lacks_nodes_says_which():
    live = context([2, 2, 2, 2, 1, 1, 0, 0], cursor=32)
    short = replace(live, embeddings=TreeEmbeddings([level[:2] for level in live.embeddings.levels]))
    with pytest.raises(InputError, match=r"node \(level 1, index \d\) is beyond the tree"):
        scorer_of(DUAL).score(short)


@pytest.mark.parametrize(("config", "signed"), [(DUAL, True), (TRANSFORMER, True), (DUAL, False)])
def test_the_exported_graph_scores_as_the_network_does_at_any_size(make_batch, config, signed):
    network = scorer_of(config).network
    exported = export_lensnet(network, block_size=4, max_level=2, signed=signed).module()
    for seed, num_snapshots in ((0, 1), (1, 3), (2, 5)):
        batch = make_batch(seed, num_snapshots=num_snapshots, num_spans=3 + seed)
        found = exported(*(getattr(batch, name) for name in INPUTS))
        torch.testing.assert_close(found, score(network, batch, signed=signed), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [DUAL, TRANSFORMER, NetworkConfig(name="linear")])
def test_the_exported_graph_of_a_network_with_a_price_carries_it(make_batch, config):
    network = shaken(build_network(config, WIDTH, price=True, seed=1))
    exported = export_lensnet(network, block_size=4, max_level=2, signed=False).module()
    for seed, num_snapshots in ((0, 1), (1, 3)):
        batch = make_batch(seed, num_snapshots=num_snapshots, num_spans=3 + seed)
        room_B = torch.full((num_snapshots,), 7.0)
        inputs = [getattr(batch, name) for name in (*INPUTS, *PRICE_INPUTS[:2])]
        scores, price = exported(*inputs, room_B)
        focus = network(batch, room_B[:, None])
        torch.testing.assert_close(scores, signed_scores(focus, batch), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(price, focus.price_BR[:, 0], rtol=1e-4, atol=1e-6)
        assert (price > 0).all()


@pytest.mark.parametrize("config", [DUAL, TRANSFORMER, NetworkConfig(name="linear")])
@pytest.mark.parametrize("price", [False, True])
def test_the_exported_graph_takes_word_matches_by_name(make_batch, config, price):
    network = shaken(build_network(replace(config, match_words=True), WIDTH, price=price, seed=1))
    exported = export_lensnet(network, block_size=4, max_level=2, signed=True).module()
    for seed, num_snapshots in ((0, 1), (1, 3)):
        batch = make_batch(seed, num_snapshots=num_snapshots, num_spans=3 + seed)
        names = (*INPUTS, *PRICE_INPUTS[:2]) if price else INPUTS
        inputs = [*(getattr(batch, name) for name in names), *([torch.zeros(num_snapshots)] if price else [])]
        found = exported(*inputs, **{WORD_INPUT: batch.word_matches})
        expected = score(network, batch, signed=True)
        torch.testing.assert_close(found[0] if price else found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [DUAL, NetworkConfig(name="linear")])
def test_a_scorer_that_matches_words_reads_the_token_ids_up_to_the_cursor(tmp_path, config):
    scorer_of(replace(config, match_words=True)).save_pretrained(tmp_path / "best")
    scorer = Scorer.from_pretrained(tmp_path / "best", device="cpu")
    tokens_T, live = np.arange(64) % 23, context([2, 2, 2, 2, 1, 1, 0, 0], cursor=31)
    scores = scorer.score(replace(live, tokens_T=tokens_T))
    other_T = tokens_T.copy()
    other_T[31:] = 0
    assert torch.equal(scorer.score(replace(live, tokens_T=other_T)), scores), "it looked ahead"
    other_T[16:31] = tokens_T[:15]
    assert not torch.equal(scorer.score(replace(live, tokens_T=other_T)), scores)
    with pytest.raises(InputError, match=r"comes without token ids: give those of its document, Context"):
        scorer.score(live)
    with pytest.raises(InputError, match=r"ends at token 31, and the document has the ids of 30"):
        scorer.candidates(replace(live, tokens_T=tokens_T[:30]), budget=8)


def priced_scorer(config):
    info = replace(scorer_of(DUAL).info, network=config, target="value_and_price",
                   target_sql="-- merge: separate\n")  # fmt: skip
    return Scorer(shaken(build_network(config, WIDTH, price=True, seed=1)), info)


@pytest.mark.parametrize("config", [DUAL, TRANSFORMER, NetworkConfig(name="linear")])
def test_a_network_with_a_price_is_kept_and_gives_signed_masked_scores(tmp_path, config):
    priced_scorer(config).save_pretrained(tmp_path / "best")
    scorer = Scorer.from_pretrained(tmp_path / "best", device="cpu")
    live = replace(context([2, 2, 2, 2, 1, 1, 0, 0, 0], cursor=36), protected_tail=8)
    for price in ("searched", "learned"):
        scores = scorer.score(live, price=price)
        assert torch.equal(scores, priced_scorer(config).score(live, price=price))
        assert scores[0] >= 0
        assert (scores[3:] <= 0).all()
        assert (scores[-8:] == 0).all()  # the protected tail can do nothing
        assert torch.equal(scorer.score(live, budget=live.lod_map.num_entries, price=price), scores)
    # A tighter budget raises the searched price: more is let go, less is asked for.
    tight = scorer.score(live, budget=live.lod_map.num_entries - 6)
    assert (tight <= scorer.score(live) + 1e-6).all()


def test_loading_and_scoring_need_neither_store_nor_cluster_nor_base_model(tmp_path):
    scorer_of(DUAL).save_pretrained(tmp_path / "best")
    blocked = ("ray", "transformers", "duckdb", "deltalake", "pyarrow", "zarr", "pydantic", "typer", "rich",
               "tensorboard", "scipy", "fsspec")  # fmt: skip
    code = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in blocked)
    code += f"""
import numpy as np, torch
from mctrace.context.lod_map import LODMap
from mctrace.context.tree import TreeShape
from mctrace.datasets.batches.context_tensors import Context, TreeEmbeddings
from mctrace.train.serving.scorer import Scorer
lod_map = LODMap(TreeShape(4, 2), 0, 8, np.array([1, 0], dtype=np.uint8))
trees = TreeEmbeddings([torch.zeros(8, {WIDTH}), torch.zeros(2, {WIDTH}), torch.zeros(0, {WIDTH})])
assert Scorer.from_pretrained({str(tmp_path / "best")!r}).score(Context(lod_map, trees)).shape == (5,)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
