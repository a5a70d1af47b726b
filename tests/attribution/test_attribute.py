"""`attribute` against captum's feature ablation on the same units, and what it refuses."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from benchmarks.captum_ablation import ablated_by_captum, ablated_by_hand
from mctrace.attribution.attribute import attribute
from mctrace.attribution.attribution import Attribution
from mctrace.attribution.text_model import TextModel
from mctrace.errors import ConfigError, InputError, ModelError
from mctrace.gists.network.gistnet import MeanGistNet
from tests.attribution.making import TEXT, sharp_model

TARGET = " It ran."
TOLERANCE = 1e-4
"""nats, over all the tokens that follow"""


@pytest.fixture(scope="module")
def model(tiny_model_folder) -> TextModel:
    return sharp_model(tiny_model_folder)


def ids_of(model: TextModel, text: str) -> torch.Tensor:
    return torch.tensor(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def by_captum(model: TextModel, found: Attribution, first: int) -> torch.Tensor:
    """What each unit is worth for all from token `first` on, by captum."""
    tokens_T = torch.cat([ids_of(model, found.text), ids_of(model, found.target or "").long()])
    spans = [(unit.first, unit.end) for unit in found.units]
    return ablated_by_captum(model.model.network, tokens_T, spans, (first, len(tokens_T)))


@pytest.mark.parametrize("unit", ["sentence", "block", "token", "line", "paragraph"])
def test_a_target_is_worth_what_captum_finds(model, unit):
    found = attribute(TEXT, model=model, unit=unit, target=TARGET, block_size=8)
    expected = by_captum(model, found, len(ids_of(model, TEXT)))
    measured = [unit.index for unit in found.units if unit.nats is not None]
    assert len(measured) == len(found.units) - (unit == "token")
    assert max(abs(found.units[i].nats) for i in measured) > 0.1
    for i in measured:
        assert found.units[i].nats == pytest.approx(float(expected[i]), abs=TOLERANCE)


def test_what_follows_each_part_is_worth_what_captum_finds(model):
    found = attribute(TEXT, model=model)
    assert len(found.units) == 6
    for unit in found.units[:-1]:
        expected = by_captum(model, found, unit.end)[unit.index]
        assert unit.nats == pytest.approx(float(expected), abs=TOLERANCE)
        assert unit.num_following == len(found.tokens) - unit.end
    assert found.units[-1].nats is None
    assert found.units[-1].unmeasured == "nothing follows"


def test_any_stretch_that_follows_can_be_asked_about(model):
    found = attribute(TEXT, model=model)
    first, end = found.units[3].first, found.units[3].end
    worth = found.worth_for(first, end)
    assert np.isnan(worth[3:]).all()
    expected = by_captum(model, found, first) - by_captum(model, found, end)
    assert worth[:3] == pytest.approx(expected[:3].numpy(), abs=2 * TOLERANCE)
    tokens_T, spans = ids_of(model, TEXT), [(unit.first, unit.end) for unit in found.units]
    stretches = [(first, end), (end, len(tokens_T))]
    by_hand_RU = ablated_by_hand(model.model.network, tokens_T, spans, stretches)
    assert by_hand_RU[:, :3].numpy() == pytest.approx(
        np.stack([found.worth_for(*stretch)[:3] for stretch in stretches]), abs=2 * TOLERANCE
    )
    whole = [found.worth_for(unit.end, len(found.tokens))[unit.index] for unit in found.units[:-1]]
    assert whole == pytest.approx([unit.nats for unit in found.units[:-1]])


def test_a_gist_stands_in_the_middle_of_its_block_beside_the_first_token(model):
    found = attribute(TEXT, model=model, against="gist", block_size=8, target=TARGET)
    tokens_T = torch.cat([ids_of(model, TEXT), ids_of(model, TARGET)])
    num_text = len(tokens_T) - len(TARGET)
    embeddings_Td = model.model.embed(tokens_T)
    position_T = torch.arange(len(tokens_T))

    def loss(entries_Nd: torch.Tensor, position_N: torch.Tensor) -> float:
        keep = torch.arange(len(position_N) - len(TARGET) - 1, len(position_N) - 1)
        with torch.inference_mode():
            logits = model.model.logits(entries_Nd, position_N, keep)
        return float(torch.nn.functional.cross_entropy(logits, tokens_T[num_text:], reduction="sum"))

    before = loss(embeddings_Td, position_T)
    for unit in found.units[: num_text // 8]:
        first, end = max(1, unit.first), unit.end
        gist_1d = MeanGistNet().gists(embeddings_Td[unit.first : end][None], 1)
        entries = torch.cat([embeddings_Td[:first], gist_1d, embeddings_Td[end:]])
        position = torch.cat([position_T[:first], torch.tensor([unit.first + 4]), position_T[end:]])
        assert unit.nats == pytest.approx(loss(entries, position) - before, abs=TOLERANCE)
    assert num_text % 8
    assert found.units[-1].unmeasured == "an incomplete block has no gist"
    assert found.gists == "mean"


def test_tokens_that_the_tokenizer_writes_first_are_never_left_out(model, monkeypatch):
    from mctrace.attribution import attribute as module

    monkeypatch.setattr(module, "leading_tokens", lambda tokenizer: [7, 9])
    found = attribute("Ab.", model=model, unit="token", target=TARGET)
    assert [unit.nats is None for unit in found.units] == [False] * 3
    tokens_T = torch.cat([torch.tensor([7, 9]), ids_of(model, "Ab." + TARGET)])
    kept = torch.tensor([i for i in range(len(tokens_T)) if i != 2])

    def loss(kept_N: torch.Tensor) -> float:
        keep = torch.arange(len(kept_N) - len(TARGET) - 1, len(kept_N) - 1)
        with torch.inference_mode():
            logits = model.model.logits(model.model.embed(tokens_T[kept_N]), kept_N, keep)
        return float(torch.nn.functional.cross_entropy(logits, tokens_T[-len(TARGET) :], reduction="sum"))

    assert found.units[0].nats == pytest.approx(loss(kept) - loss(torch.arange(len(tokens_T))), abs=TOLERANCE)


def test_the_standard_error_is_that_of_a_sum(model):
    unit = attribute(TEXT, model=model, target=TARGET).units[0]
    delta_T = unit.delta_nll_T
    assert unit.stderr == pytest.approx(delta_T.std(ddof=1) * len(delta_T) ** 0.5)
    assert unit.nats_per_token == pytest.approx(unit.nats / len(TARGET))
    assert attribute(TEXT, model=model, target="x").units[0].stderr is None


def test_the_answer_is_a_table_and_json(model):
    found = attribute(TEXT, model=model)
    assert found.arrow().to_pylist() == found.to_json()["units"]
    assert "".join(found.arrow()["text"].to_pylist()) == TEXT
    assert [unit.index for unit in found.ranked] == sorted(range(5), key=lambda i: -abs(found.units[i].nats))
    assert repr(found) == f"<Attribution of 6 sentences, {len(TEXT)} tokens for what follows, tiny>"


class Counted:
    def __init__(self) -> None:
        self.calls: list[object] = []

    def start(self, label: str, total: float | None, unit: str) -> None:
        self.calls.append(total)

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.calls.append(amount)

    def stop(self) -> None:
        self.calls.append("stop")


def test_progress_counts_the_parts(model):
    progress = Counted()
    attribute(TEXT, model=model, progress=progress)
    assert progress.calls[0] == sum(progress.calls[1:-1]) == 5
    assert progress.calls[-1] == "stop"


REFUSED: dict[str, tuple[dict[str, object], type[Exception], str]] = {
    "no text": ({"text": " \n"}, InputError, "the text is empty"),
    "no target": ({"target": ""}, InputError, "the target is empty"),
    "a blank target": ({"target": "\n"}, InputError, "the target is empty"),
    "another unit": ({"unit": "word"}, ConfigError, "'word': choose from block, sentence"),
    "another counterfactual": ({"against": "mask"}, ConfigError, "'mask': choose from drop, gist"),
    "another estimator": ({"estimator": "best"}, ConfigError, "'best': choose from exact"),
    "a sentence's gist": ({"unit": "sentence", "against": "gist"}, ConfigError, "use the unit block"),
    "one unit": ({"text": "Alone"}, InputError, "a single sentence, and nothing follows"),
    "one token": ({"text": "A", "target": "b"}, InputError, "a single token, which stays"),
    "no complete block": (
        {"against": "gist", "block_size": 400, "target": TARGET},
        InputError,
        "complete block of 400",
    ),
    "a block of one": ({"block_size": 1}, ConfigError, "block_size"),
    "too long": ({"text": "A b. " * 200}, InputError, "more tokens than the 512 positions"),
    "too long with its target": ({"target": "x" * 500}, InputError, "with its target has more"),
    "gists of another kind": ({"against": "gist", "gists": "median"}, ModelError, "median"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_asked_is_refused(model, name):
    arguments, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message):
        attribute(**{"text": TEXT, "model": model, **arguments})


@pytest.fixture(scope="module")
def gentle_model(tiny_model_folder) -> TextModel:
    """Weights as initialised: effects are small, so the first order is nearly all of them."""
    return TextModel.load(str(tiny_model_folder))


@pytest.mark.parametrize("against", ["drop", "gist"])
def test_gradients_estimate_small_effects_on_a_target(gentle_model, against):
    asked = {"model": gentle_model, "unit": "block", "block_size": 4, "against": against, "target": TARGET}
    exact, estimated = (attribute(TEXT, estimator=name, **asked) for name in ("exact", "gradient"))
    worth = np.array([[u.nats, v.nats] for u, v in zip(exact.units, estimated.units, strict=True) if u.nats])
    assert len(worth) > 15
    before_the_last = worth[:-1]  # the target's first token is read at the last part
    assert spearmanr(*before_the_last.T).statistic > 0.9
    assert np.corrcoef(before_the_last.T)[0, 1] > 0.9
    assert [token.nll for token in exact.tokens] == pytest.approx([token.nll for token in estimated.tokens])
    assert all(unit.stderr is None for unit in estimated.units)
    assert [unit.unmeasured for unit in estimated.units] == [unit.unmeasured for unit in exact.units]


def test_a_part_that_others_repeat_is_estimated_at_too_much(model):
    """Large effects are what the first order cannot size: the documented limit."""
    asked = {"model": model, "unit": "block", "block_size": 4, "target": TARGET}
    exact, estimated = (attribute(TEXT, estimator=name, **asked) for name in ("exact", "gradient"))
    gap = [abs(u.nats - v.nats) for u, v in zip(exact.units, estimated.units, strict=True)]
    assert max(gap) > 0.1


def test_gradients_of_what_follows_cover_every_following_token_once(gentle_model):
    exact, found = (attribute(TEXT, model=gentle_model, estimator=name) for name in ("exact", "gradient"))
    for unit, other in zip(found.units, exact.units, strict=True):
        assert (unit.first_following, unit.num_following) == (other.first_following, other.num_following)
        if unit.delta_nll_T is None:
            continue
        assert len(np.unique(unit.delta_nll_T)) <= 8
        assert unit.nats == pytest.approx(found.worth_for(unit.end, len(found.tokens))[unit.index])
    one, num_tokens = found.units[0], len(found.tokens)
    trajectory = found.worth_for(num_tokens - 20, num_tokens)[0]
    assert trajectory == pytest.approx(one.delta_nll_T[-20:].sum())


@pytest.mark.slow
@pytest.mark.real_model
def test_gradients_rank_the_lines_of_a_source_file_on_the_real_model():
    lines = Path(argparse.__file__).read_text(encoding="utf-8").splitlines(keepends=True)[88:160]
    model = TextModel.load("smollm2-135m")
    exact, estimated = (
        attribute("".join(lines), model=model, unit="line", estimator=name, target="\n\nclass HelpFormatter(")
        for name in ("exact", "gradient")
    )
    pairs = [
        (u.nats, v.nats) for u, v in zip(exact.units, estimated.units, strict=True) if u.nats is not None
    ]
    assert spearmanr(*np.array(pairs[:-1]).T).statistic > 0.4
