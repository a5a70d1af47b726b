"""Value and price where blocks may be absent: every action with its own positions, by definition."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mctrace.context.actions import legal_actions
from mctrace.context.lod_map import LODMap
from mctrace.context.pricing import shadow_price
from mctrace.context.tree import ABSENT, TreeShape
from mctrace.datasets.batches.context_tensors import Context, TreeEmbeddings, unlabelled_batch
from mctrace.train.inference import score_actions, score_contexts, search_price
from mctrace.train.networks.config import NetworkConfig
from mctrace.train.networks.focus import Focus, signed_scores
from mctrace.train.networks.registry import build_network
from mctrace.train.objectives.budget import ASKED_SHARES, asked_mass, asked_rooms, focus_masses
from mctrace.train.objectives.config import ObjectiveConfig
from mctrace.train.objectives.counterfactual import regression_loss
from mctrace.train.serving.torch_export import DROP_INPUT, INPUTS, PRICE_INPUTS, export_lensnet

K, WIDTH, TAIL = 4, 12, 4
LEVELS = (
    [2, 2, 2, 2, 1, 1, 1, 1, 255, 0, 1, 255, 0, 0, 0],
    [255, 255, 255, 255, 1, 255, 1, 0, 0, 0, 0, 0],
    [1, 1, 1, 1, 255, 255, 0, 0],
)


def contexts(absence):
    generator = torch.Generator().manual_seed(3)
    found = []
    for levels in LEVELS:
        lod_map = LODMap(TreeShape(K, 2, absence), 0, K * len(levels) - 2, np.array(levels, dtype=np.uint8))
        counts = [K * len(levels) // K**level + 1 for level in range(3)]
        tree = TreeEmbeddings([torch.randn(count, WIDTH, generator=generator) for count in counts])
        found.append(Context(lod_map, tree, TAIL))
    return found


def focus_for(batch):
    generator = torch.Generator().manual_seed(5)
    expand, collapse = torch.randn(2, *batch.levels.shape, generator=generator).double()
    return Focus(
        expand, collapse, 0.2 * torch.rand(len(batch), len(ASKED_SHARES), generator=generator).double()
    )


def places_of(lod_map, action):
    """Indices of the scored nodes that an action takes."""
    nodes = lod_map.nodes
    taken = {
        (ABSENT if action.kind == "insert" else node.level, node.index)
        for node in action.entries(lod_map.tree)
    }
    return [i for i, one in enumerate(zip(nodes.level_N, nodes.index_N, strict=True)) if one in taken]


def actions_of(focus, row, context):
    """(action, value, positions, places) of every legal action: the mean of the values of what it takes."""
    for action in legal_actions(context.lod_map, TAIL):
        values = focus.expand_BN if action.shows_more else focus.collapse_BN
        places = places_of(context.lod_map, action)
        yield action, float(values[row, places].mean()), action.positions(context.lod_map.tree), places


@pytest.mark.parametrize("absence", ["tokens", "gist"])
def test_masses_and_scores_are_those_of_the_legal_actions(absence):
    found = contexts(absence)
    batch = unlabelled_batch(found)
    focus = focus_for(batch)
    expansion, collapse = focus_masses(focus, batch)
    asked = asked_mass(focus, batch, asked_rooms(batch), (expansion, collapse))
    scores, kinds = signed_scores(focus, batch), set()
    for row, context in enumerate(found):
        for budget, share in enumerate(ASKED_SHARES):
            p, n, moved = 0.0, 0.0, 0
            up, down = np.zeros(batch.levels.shape[1]), np.zeros(batch.levels.shape[1])
            for action, value, positions, places in actions_of(focus, row, context):
                u = value - float(focus.price_BR[row, budget]) * positions
                kinds.add((action.kind, action.entry_level > 0))
                if action.shows_more:
                    p, moved = p + positions * max(0.0, u), moved + positions * (u > 0)
                    up[places] = max(0.0, u)
                else:
                    n, moved = n + positions * max(0.0, -u), moved + positions * (u < 0)
                    down[places] = np.minimum(down[places], min(0.0, u))
            assert float(expansion[row, budget]) == pytest.approx(p)
            assert float(collapse[row, budget]) == pytest.approx(n)
            room = share * context.lod_map.num_entries
            assert float(asked[row, budget]) == pytest.approx(room * (p + n) / max(moved, 1))
            if budget == 0:
                np.testing.assert_allclose(scores[row].numpy(), up + down, atol=1e-9)
    assert {("drop", False), ("drop", True), ("insert", absence == "gist"), ("collapse", True)} <= kinds


@pytest.mark.parametrize("absence", ["tokens", "gist"])
@pytest.mark.parametrize("units", ["actions", "entries"])
def test_regression_compares_a_drop_with_the_value_of_showing_less(absence, units):
    found = contexts(absence)
    batch = unlabelled_batch(found)
    focus = focus_for(batch)
    rng = np.random.default_rng(0)
    indices = {kind: torch.full(batch.levels.shape, -1) for kind in ("more", "collapse", "drop")}
    actions = [list(actions_of(focus, row, context)) for row, context in enumerate(found)]
    utilities = torch.tensor(rng.normal(size=(len(found), max(map(len, actions)))))
    squares, weight = 0.0, 0.0
    for row, measured in enumerate(actions):
        for a, (action, _, _, places) in enumerate(measured):
            indices["more" if action.shows_more else action.kind][row, places] = a
            values = focus.expand_BN if action.shows_more else focus.collapse_BN
            share = 1 / len(places) if units == "actions" else 1.0
            squares += share * float((values[row, places] - utilities[row, a]).square().sum())
            weight += share * len(places)
    present = torch.tensor([[a < len(one) for a in range(utilities.shape[1])] for one in actions])
    labelled = replace(
        batch, expand_action=indices["more"], collapse_action=indices["collapse"],
        drop_action=indices["drop"], action_utilities=utilities, action_present=present,
        action_inclusion=torch.ones_like(utilities), signed=False,
    )  # fmt: skip
    found_loss = regression_loss(focus, labelled, ObjectiveConfig(units=units))
    assert float(found_loss) == pytest.approx(squares / weight, rel=1e-5)


def priced_network(absence, name="dual_cross_attention"):
    network = build_network(
        NetworkConfig(name=name, d_lens=16, num_heads=2), WIDTH, absence=absence, price=True, seed=1
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    return network.eval()


@pytest.mark.parametrize("absence", ["tokens", "gist"])
def test_actions_pay_for_their_own_positions(absence):
    network = priced_network(absence)
    for context in contexts(absence):
        budget = context.lod_map.num_entries - 3
        with torch.no_grad():
            focus = network(unlabelled_batch([context]), torch.tensor([[-3.0]]))
        by_hand = {
            action: (value, positions) for action, value, positions, _ in actions_of(focus, 0, context)
        }
        price = float(focus.price_BR[0, 0])
        found = score_actions(network, context, signed=False, budget=budget, price="learned")
        for i, score in enumerate(found.score_A):
            value, positions = by_hand[found.actions.action(i)]
            assert score == pytest.approx(value - price * positions, abs=1e-5)
        searched = score_actions(network, context, signed=False, budget=budget)
        valued = replace(
            found, score_A=np.array([by_hand[found.actions.action(i)][0] for i in range(len(found))])
        )
        price = shadow_price(valued, -3) / valued.positions_A.max()
        assert float(search_price(focus, [context], [-3]).price_BR) == pytest.approx(price, abs=1e-5)
        np.testing.assert_allclose(searched.score_A, valued.score_A - price * valued.positions_A, atol=1e-5)
        (scores_N,) = score_contexts(network, [context], signed=False, budget=budget, price="learned")
        assert len(scores_N) == len(context.lod_map.nodes)
        assert (scores_N[context.lod_map.nodes.level_N == ABSENT] >= 0).all()


@pytest.mark.parametrize("name", ["dual_cross_attention", "transformer", "linear"])
def test_a_graph_with_a_price_and_drops_is_exported(name):
    network, batch = priced_network("tokens", name), unlabelled_batch(contexts("tokens"))
    exported = export_lensnet(network, K, 2, signed=False, absence="tokens").module()
    room_B = torch.tensor([5.0, 0.0, -2.0])
    inputs = [getattr(batch, field) for field in (*INPUTS, *PRICE_INPUTS[:2])]
    scores, price = exported(*inputs, room_B, getattr(batch, DROP_INPUT))
    with torch.no_grad():
        focus = network(batch, room_B[:, None])
    torch.testing.assert_close(scores, signed_scores(focus, batch), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(price, focus.price_BR[:, 0], rtol=1e-4, atol=1e-6)


def test_an_absent_block_takes_no_position_of_the_asked_length():
    (context, *_) = contexts("tokens")
    batch = unlabelled_batch([context])
    assert batch.num_positions.tolist() == [context.lod_map.num_entries]
    assert int(batch.entry_mask.sum()) == context.lod_map.num_entries + 2
    assert float(asked_rooms(batch)[0, 3]) == pytest.approx(context.lod_map.num_entries / 8)
