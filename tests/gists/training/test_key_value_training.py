"""Training of key-value gists: windows, the masked loss by definition, gradients, a run that resumes."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mctrace.base_model.masked_pass import linear_layers
from mctrace.base_model.model_source import ModelSource
from mctrace.errors import ConfigError, InputError
from mctrace.gists.config import KeyValueOptimiserConfig, KeyValueTrainConfig
from mctrace.gists.network.key_value_gistnet import KeyValueGistConfig, KeyValueGistNet
from mctrace.gists.training.gistnet_run import GistNetCorpus
from mctrace.gists.training.key_value_loss import (
    deleted_logits,
    key_value_loss,
    key_value_validation,
    student_logits,
    teach,
    with_deletion,
)
from mctrace.gists.training.key_value_run import KeyValueRun
from mctrace.gists.training.key_value_windows import (
    draw_key_value_window,
    key_value_validation_windows,
    key_value_windows,
)
from mctrace.progress import Silent
from tests.gists.tiny_models import TREE, document
from tests.models import save_tiny_model, tiny_model

CONFIG = KeyValueTrainConfig(
    rank=2, anchors=(1, 2), window_tokens=40, late_window_tokens=48, windows_per_step=1,
    late_windows_per_step=2, late_after=3, curriculum_steps=2, num_copies=1, copy_skip=1, eval_interval=2,
    num_validation_windows=2, save_interval=2, log_interval=1,
    optimiser=KeyValueOptimiserConfig(learning_rate=5e-3, warmup_steps=1, total_steps=6),
)  # fmt: skip


def gistnet(model, seed: int = 0, *, trained: bool = False) -> KeyValueGistNet:
    torch.manual_seed(seed)
    made = KeyValueGistNet(KeyValueGistConfig(4, linear_layers(model.network), rank=2))
    if trained:
        for parameter in made.up.values():
            torch.nn.init.normal_(parameter, std=0.3)
    return made


def window(step: int = 2, seed: int = 0):
    return draw_key_value_window(document(200), TREE, CONFIG, step, np.random.default_rng(seed))


def test_windows_follow_the_curriculum_and_depend_on_their_step_alone():
    first, again = (key_value_windows([document(200)], TREE, CONFIG) for _ in range(2))
    steps = [next(first) for _ in range(5)]
    assert [len(windows) for windows in steps] == [1, 1, 1, 2, 2]
    assert [w.lod_map.cursor for windows in steps for w in windows] == [40, 40, 40, 48, 48, 48, 48]
    resumed = next(key_value_windows([document(200)], TREE, CONFIG, first_step=4))
    assert all(torch.equal(a.tokens_T, b.tokens_T) for a, b in zip(steps[3], resumed, strict=True))
    for windows in steps:
        assert all(torch.equal(a.tokens_T, b.tokens_T) for a, b in zip(windows, next(again), strict=True))
    for one in steps[2]:
        assert 4 <= len(one.num_anchors) <= 6  # of nine blocks that may give way
        assert set(one.num_anchors) <= {1, 2}
        copy_T = one.tokens_T[one.first_copy :]
        blocks = np.flatnonzero(one.lod_map.levels > 0)
        assert any(torch.equal(copy_T, one.tokens_T[b * 4 : b * 4 + 4]) for b in blocks)


def test_documents_that_are_too_short_are_named():
    with pytest.raises(InputError, match="no training document has at least 40 tokens"):
        next(key_value_windows([document(39)], TREE, CONFIG))
    with pytest.raises(InputError, match="no validation document"):
        key_value_validation_windows([], TREE, CONFIG)
    with pytest.raises(ConfigError, match="window_tokens must be at most late_window_tokens"):
        replace(CONFIG, late_window_tokens=39)


def test_scored_are_visible_tokens_behind_the_first_gist_and_copies_after_their_first():
    one, model = window(), tiny_model()
    teaching = teach(model, [one], CONFIG)[0]
    spans = [(span.first, span.end) for span in teaching.spans]
    hidden = {token for first, end in spans for token in range(first, end)}
    expected = [token for token in range(spans[0][1], 40) if token not in hidden and token - 1 not in hidden]
    assert teaching.token_S.tolist() == [*expected, 41, 42, 43]
    assert teaching.is_copy_S.tolist() == [False] * len(expected) + [True] * 3


def test_an_untrained_student_is_the_model_with_everything_between_the_anchors_hidden():
    """Against one pass per scored token that runs each span by itself: here, of one gist."""
    model = tiny_model()
    config = replace(CONFIG, min_replaced=0.1, max_replaced=0.1, anchors=(1,))
    one = draw_key_value_window(document(200), TREE, config, 5, np.random.default_rng(3))
    teaching = teach(model, [one], config)[0]
    (span,) = teaching.spans
    found_SV = student_logits(gistnet(model), model, [one], [teaching])
    num_tokens = len(one.tokens_T)
    visible = torch.ones(num_tokens, num_tokens).tril().bool()
    for later in range(span.end, num_tokens):
        for token in range(span.first, span.end - 1):
            visible[later, token] = token == 0
    mask = torch.zeros(num_tokens, num_tokens).masked_fill(~visible, torch.finfo(torch.float32).min)
    output = model.network(input_ids=one.tokens_T[None], attention_mask=mask[None, None], use_cache=False)
    torch.testing.assert_close(found_SV, output.logits[0, teaching.token_S - 1], atol=1e-4, rtol=1e-4)


def test_a_hidden_token_reaches_later_ones_through_its_anchor_alone():
    """With an anchor that sees its block, changing the block's first token changes what comes later; with the
    block deleted it does not."""
    model, one = tiny_model(), window()
    teaching = teach(model, [one], CONFIG)[0]
    span = teaching.spans[-1]
    assert len(span.anchors) < 4
    changed_T = one.tokens_T.clone()
    place = next(p for p in range(span.first, span.end) if p not in span.anchors and p > 0)
    changed_T[place] = (changed_T[place] + 1) % 97
    other = replace(one, tokens_T=changed_T)
    later = teaching.token_S >= span.end
    student = gistnet(model)
    assert not torch.allclose(
        student_logits(student, model, [other], [teaching])[later],
        student_logits(student, model, [one], [teaching])[later],
    )
    assert torch.equal(
        deleted_logits(model, other, teaching)[later], deleted_logits(model, one, teaching)[later]
    )


def test_only_the_adapters_learn_and_a_step_averages_its_windows():
    model, config = tiny_model(), CONFIG
    student = gistnet(model, trained=True)
    windows = [window(seed=1), window(seed=2)]
    losses = []
    gradients = []
    for chosen in ([windows[0]], [windows[1]], windows):
        student.zero_grad()
        losses.append(key_value_loss(student, model, config)(chosen)["loss"])
        gradients.append(torch.cat([p.grad.flatten() for p in student.parameters()]))
    assert losses[2] == pytest.approx((losses[0] + losses[1]) / 2, rel=1e-5)
    torch.testing.assert_close(gradients[2], (gradients[0] + gradients[1]) / 2, atol=1e-5, rtol=1e-3)
    assert gradients[2].abs().max() > 0
    assert all(parameter.grad is None for parameter in model.network.parameters())


def test_windows_of_a_pass_are_the_same_as_one_by_one():
    """Of two lengths, three in a pass."""
    model, student = tiny_model(), gistnet(tiny_model(), trained=True)
    windows = [window(seed=1), window(step=9, seed=2), *(window(seed=seed) for seed in (3, 4, 5))]
    assert {len(one.tokens_T) for one in windows} == {44, 52}
    found = []
    for config in (CONFIG, replace(CONFIG, windows_per_pass=3)):
        student.zero_grad()
        loss = key_value_loss(student, model, config)(windows)["loss"]
        validation = key_value_validation(student, model, with_deletion(model, windows, config), config)
        gradient = torch.cat([p.grad.flatten() for p in student.parameters()])
        found.append((loss, validation, gradient))
    (loss, validation, gradient), (loss_3, validation_3, gradient_3) = found
    assert loss_3 == pytest.approx(loss, rel=1e-5)
    assert validation_3 == pytest.approx(validation, rel=1e-4)
    torch.testing.assert_close(gradient_3, gradient, atol=1e-5, rtol=1e-3)


def test_validation_is_paired_with_deletion_on_the_same_windows():
    model = tiny_model()
    windows = with_deletion(model, key_value_validation_windows([document(200)], TREE, CONFIG), CONFIG)
    found = key_value_validation(gistnet(model), model, windows, CONFIG)
    deleted = sum(w.deleted_kl for w in windows) / len(windows)
    assert found["less_deleted"] == pytest.approx(found["loss"] - deleted)
    assert all(set(w.window.num_anchors) == {1} for w in windows)
    assert found["less_deleted_error"] > 0


def make_run(folder: Path, stopped: Path | None = None) -> KeyValueRun:
    tokens = {"train": [document(200, 1), document(120, 2)], "validation": [document(90, 3)], "test": []}
    source = ModelSource("tiny", None, save_tiny_model(folder / "model"))
    return KeyValueRun.of(
        CONFIG, TREE, source, tiny_model(), GistNetCorpus(tokens, {}), dtype="float32", stopped=stopped
    )


class StopAfter(Silent):
    """Asks the process to stop after some steps."""

    def __init__(self, num_steps: int) -> None:
        self._left = num_steps

    def advance(self, amount: float = 1, note: str = "") -> None:
        self._left -= 1 if note else 0
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_that_resumes_ends_where_an_uninterrupted_one_does(tmp_path):
    assert make_run(tmp_path).train(tmp_path / "whole", Silent(), print).num_steps == 6
    half = tmp_path / "half"
    assert make_run(tmp_path).train(half, StopAfter(3), print).ending == "stopped"
    (checkpoint,) = half.glob("step_*")
    assert checkpoint.name == "step_0000003"
    assert make_run(tmp_path, checkpoint).train(half, Silent(), print).num_steps == 6
    whole, resumed = (
        KeyValueGistNet.from_pretrained(folder / "step_0000006") for folder in (tmp_path / "whole", half)
    )
    assert resumed.content_hash == whole.content_hash != gistnet(tiny_model()).content_hash
    assert {path.name for path in half.iterdir()} == {"best", "step_0000006", "metrics.jsonl", "tensorboard"}
    assert not list((half / "best").glob("training_state*"))
    record = json.loads((half / "best" / "training.json").read_text())
    assert {"loss", "less_deleted", "copy_less_deleted"} <= record["validation"].keys()
