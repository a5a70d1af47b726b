"""What a match of rare words decides is learned with `match_words` and not without, from a store as well."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mctrace.context.lod_map import LODMap
from mctrace.context.tree import ABSENT, TreeShape
from mctrace.datasets.batches.context_tensors import Context, TreeEmbeddings, unlabelled_batch
from mctrace.datasets.batches.padded_batch import Batch
from mctrace.progress import Silent
from mctrace.train.checkpoint_evaluation import evaluate_checkpoints
from mctrace.train.config import OptimiserConfig, TrainConfig
from mctrace.train.loop.training_run import TrainingRun
from mctrace.train.networks.config import NetworkConfig
from mctrace.train.networks.registry import build_network
from mctrace.train.serving.scorer import Scorer
from tests.train.stores import learnable_store

TREE, WIDTH = TreeShape(4, 1, "tokens"), 8
NUM_BLOCKS, NUM_SHOWN = 24, 5
DUAL = NetworkConfig(d_lens=16, num_heads=2, num_stacks=1, dropout=0.0)


def recalled(seed: int, num_contexts: int) -> tuple[list[Context], torch.Tensor]:
    """Contexts whose newest token is the name in one absent block, and which entry that is [B, N].

    Embeddings are noise: only token ids tell.
    """
    rng = np.random.default_rng(seed)
    levels = np.full(NUM_BLOCKS, ABSENT, dtype=np.uint8)
    levels[-NUM_SHOWN:] = 0
    lod_map = LODMap(TREE, 0, 4 * NUM_BLOCKS, levels)
    contexts, wanted = [], torch.zeros(num_contexts, len(lod_map.nodes))
    for row in range(num_contexts):
        tokens_T = rng.integers(0, 20_000, 4 * NUM_BLOCKS)
        block = int(rng.integers(0, NUM_BLOCKS - NUM_SHOWN))
        tokens_T[[4 * block + int(rng.integers(0, 4)), -1]] = 20_000 + row
        wanted[row, block] = 1.0
        levels_of_tree = [torch.from_numpy(rng.normal(size=(n, WIDTH))).float() for n in (96, 24)]
        contexts.append(Context(lod_map, TreeEmbeddings(levels_of_tree), 16, tokens_T))
    return contexts, wanted


def share_found(config: NetworkConfig) -> float:
    """Share of held-out contexts in which the wanted block has the largest score, after 100 steps."""
    network = build_network(config, WIDTH, absence="tokens")
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2)
    contexts, wanted_BN = recalled(0, 64)
    batch = unlabelled_batch(contexts, match_words=config.match_words)
    for _ in range(100):
        optimiser.zero_grad()
        loss = (network(batch) - wanted_BN)[:, : NUM_BLOCKS - NUM_SHOWN].square().mean()
        loss.backward()
        optimiser.step()
    contexts, wanted_BN = recalled(1, 64)
    with torch.no_grad():
        scores_BN = network.eval()(unlabelled_batch(contexts, match_words=config.match_words))
    chosen_B = scores_BN[:, : NUM_BLOCKS - NUM_SHOWN].argmax(dim=1)
    return float((chosen_B == wanted_BN.argmax(dim=1)).float().mean())


@pytest.mark.parametrize(
    "config", [DUAL, replace(DUAL, name="transformer", score_limit=2.0), NetworkConfig(name="linear")]
)
def test_the_block_with_the_name_that_was_read_is_found_by_its_words_alone(config):
    assert share_found(replace(config, match_words=True)) > 0.9
    assert share_found(config) < 0.3


@pytest.mark.parametrize("network", ["dual_cross_attention", "linear"])
def test_a_run_from_a_store_matches_words_and_its_checkpoint_is_judged_beside_one_that_does_not(
    tmp_path, network
):
    store = learnable_store(tmp_path / "store").at()
    folders = []
    for match_words in (False, True):
        config = TrainConfig(
            batch_size=4, eval_interval=4, save_interval=4, device="cpu",
            network=replace(DUAL, name=network, match_words=match_words),
            optimiser=OptimiserConfig(learning_rate=1e-2, warmup_steps=1, total_steps=4),
        )  # fmt: skip
        run = TrainingRun.of(config, store, "store", tmp_path / f"run-{match_words}")
        run.train(Silent(), notify=lambda _: None, alert=lambda _: None)
        folders.append(run.out / "best")
    scorer = Scorer.from_pretrained(folders[1], device="cpu")
    assert scorer.info.network.match_words
    assert scorer.network.match_words
    found = evaluate_checkpoints(TrainConfig(device="cpu"), store, "store", folders, "test")
    assert {"run-False", "run-True"} <= found.intervals.keys()


def test_padding_and_other_contexts_of_a_batch_change_no_word_match():
    contexts, _ = recalled(0, 3)
    longer = LODMap.of_tokens(TREE, 0, 96)
    mixed: list[Context] = [*contexts, replace(contexts[0], lod_map=longer)]
    batch: Batch = unlabelled_batch(mixed, match_words=True)
    for row, context in enumerate(mixed):
        alone = unlabelled_batch([context], match_words=True)
        length = alone.levels.shape[1]
        assert torch.equal(batch.word_matches[row, :length], alone.word_matches[0])
        assert not batch.word_matches[row, length:].any()
